"""A column of water of unknown diffusivity: the solver, the network, and made measurements."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from zopde import Grid

CELLS, DEPTH, HOUR = 40, 20.0, 3600.0  # metres, seconds


class Column:
    """Temperature, implicit in time. The diffusivity in m2/s is a forcing channel."""

    grid = Grid((CELLS,), (DEPTH,), HOUR, ("temperature",), ("diffusivity",), boundary="open")

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """(batch, 1, x), (batch, 1, x) -> (batch, 1, x), an hour later."""
        between = 0.5 * (forcing[..., 1:] + forcing[..., :-1]).double().numpy()
        flux = between[:, 0] * HOUR / (DEPTH / CELLS) ** 2  # (batch, cells - 1)
        matrix = np.zeros((len(flux), CELLS, CELLS)) + np.eye(CELLS)
        here = np.arange(CELLS - 1)
        for one, other in ((here, here + 1), (here + 1, here)):
            matrix[:, one, one] += flux
            matrix[:, one, other] -= flux
        stepped = np.linalg.solve(matrix, state.double().numpy().swapaxes(1, 2))
        return torch.from_numpy(stepped).swapaxes(1, 2).to(state)


class Profile(nn.Module):
    """One number for each cell, at every time: they are the weights."""

    def __init__(self, inputs: int, outputs: int, cells: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(outputs, cells))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, x) -> (batch, outputs, x)."""
        return self.values.expand(x.shape[0], *self.values.shape)


if __name__ == "__main__":  # makes column.nc, in place of your measurements
    depth = (np.arange(CELLS) + 0.5) * DEPTH / CELLS
    truth = 1e-5 + 2e-4 * np.exp(-depth / 5)
    waves = np.cos(np.pi * np.arange(6)[:, None] * depth / DEPTH)
    states = [torch.from_numpy(15 + np.random.default_rng(0).normal(size=(12, 1, 6)) @ waves)]
    for _ in range(60):
        states.append(Column().step(states[-1], torch.from_numpy(truth).expand(12, 1, CELLS)))
    runs = torch.stack(states, dim=1)[:, :, 0].numpy().astype("float32")
    data = xr.Dataset({"temperature": (("simulation", "time", "x"), runs), "diffusivity": 5e-5})
    data.to_netcdf("column.nc", engine="h5netcdf")  # it holds the guess, not the truth
