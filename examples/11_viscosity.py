"""Learn the viscosity inside a flow solver that nobody can differentiate.

    python examples/11_viscosity.py # a minute; seeds may follow

The flow is incompressible, periodic, solved in NumPy. Its viscosity differs from place to place by
a factor of up to 5, but the model assumes the same everywhere. What is known of the truth is
velocities alone. `inject = "parameter"` multiplies the model's viscosity by exp(C), where C is one
number a cell. Printed are the errors of the velocities on unseen runs, and of the viscosity.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import zopde

CELLS, STEPS, DT = 16, 20, 0.1
Array = np.ndarray[Any, Any]


class Flow:
    """Velocity (y, x) on a periodic square, driven by nothing but its own inertia."""

    grid = zopde.Grid((CELLS, CELLS), (2 * np.pi,) * 2, DT, ("v", "u"), ("viscosity",))

    def __init__(self) -> None:
        ky, kx = np.fft.fftfreq(CELLS, 1 / CELLS)[:, None], np.fft.rfftfreq(CELLS, 1 / CELLS)
        self.k = np.stack(np.broadcast_arrays(ky, kx))
        self.square = np.maximum((self.k**2).sum(0), 1)
        self.kept = (np.abs(self.k) < CELLS / 3).all(0)

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """Four steps of Heun's method."""
        assert forcing is not None, "the viscosity"
        w, nu, dt = np.fft.rfft2(state.double().numpy()), forcing.double().numpy(), DT / 4
        for _ in range(4):
            first = self.change(w, nu)
            w = w + dt / 2 * (first + self.change(w + dt * first, nu))
        return torch.from_numpy(np.fft.irfft2(w)).to(state)

    def change(self, w: Array, nu: Array) -> Array:
        """-(u . grad) u + div(2 nu D), D the rate of strain, made free of divergence."""
        u = np.fft.irfft2(w)
        slope = np.fft.irfft2(1j * self.k * w[:, :, None])  # of component i along axis j
        stress = nu[:, None] * (slope + slope.swapaxes(1, 2))
        along = np.fft.rfft2(stress - u[:, :, None] * u[:, None])  # u is free of divergence
        total = self.kept * (1j * self.k * along).sum(axis=2)
        total -= self.k * (self.k * total).sum(axis=1, keepdims=True) / self.square
        return np.asarray(total)


class Field(nn.Module):
    """The same numbers at every time and in every run: one a cell. They are the weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(outputs, CELLS, CELLS))

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the state."""
        return self.values.expand(x.shape[0], *self.values.shape)


def truth() -> Tensor:
    """(1, y, x): 0.05, and five times as much in a band."""
    x = torch.linspace(0, 2 * torch.pi, CELLS + 1)[:-1]
    return (0.05 * 5 ** ((1 + torch.sin(x)[:, None].expand(-1, CELLS)) / 2))[None]


def measured(runs: int) -> zopde.Trajectories:
    """Runs of the true flow; the viscosity that stands in the file is the model's, 0.1."""
    noise = torch.randn(runs, 2, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    flow, nu = Flow(), truth().expand(runs, -1, -1, -1)
    w = np.fft.rfft2(noise.numpy()) * np.exp(-flow.square / 8)
    w -= flow.k * (flow.k * w).sum(axis=1, keepdims=True) / flow.square
    initial = torch.from_numpy(np.fft.irfft2(w)).float()
    states = zopde.rollout(flow, initial / initial.std(), STEPS, lambda _: nu)
    return zopde.Trajectories(Flow.grid, states, torch.full_like(states[:, :, :1], 0.1))


def main(folder: Path, *seeds: int) -> dict[str, float]:
    """Train, and compare the viscosity with the true one."""
    zopde.save_trajectories(measured(12), folder / "measured.nc")
    tables: dict[str, Any] = {
        "solver": {"spec": f"{__file__}:Flow"},
        "data": {"path": str(folder / "measured.nc"), "train": 8, "test": 4},
        "corrector": {"kind": f"{__file__}:Field", "inject": "parameter"},
        "training": {"length": "150 iterations", "unroll": 6, "lr": 5e-2, "init": "scratch"},
        "run": {"labels": ["SRC", "ZO-interface"], "seeds": list(seeds or [0])},
    }
    metrics = zopde.run_correction(zopde.load_config(tables=tables), folder / "run")
    models = sorted((folder / "run" / "ZO-interface").glob("seed-*/model.safetensors"))
    guess, state = torch.full((1, 1, CELLS, CELLS), 0.1), torch.zeros(1, 2, CELLS, CELLS)
    with torch.no_grad():
        learned = [
            guess * network(state, guess).exp() for network in map(zopde.load_corrector, models)
        ]
    found, errors = {"SRC": [guess], "ZO-interface": learned}, {}
    print("label         error of velocities   of the viscosity   solver steps")
    for label, fields in found.items():
        off = torch.stack([((nu[0] - truth()).abs() / truth()).mean() for nu in fields])
        errors[label] = float(off.mean())
        velocities, steps = metrics["mae"][label]["mean"], metrics["solver_steps"][label]
        print(f"{label:<12} {velocities:20.4f} {100 * errors[label]:16.1f} % {steps:14,.0f}")
    return errors


if __name__ == "__main__":
    torch.set_num_threads(1)
    with TemporaryDirectory() as place:
        main(Path(place), *map(int, sys.argv[1:]))
