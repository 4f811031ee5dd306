"""A tracer in a known wind: NumPy code that nobody can differentiate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Generator, Tensor

from zopde import Grid, Scenario


class Tracer:
    """Upwind differences in a periodic box: robust, and far too diffusive on 16 x 16 cells."""

    def __init__(self, cells: int = 16, wind: tuple[float, float] = (0.6, 1.0)) -> None:
        self.grid = Grid(shape=(cells, cells), extent=(16.0, 16.0), dt=0.2, channels=("tracer",))
        self.wind = wind

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """(batch, 1, y, x) -> the same, dt later."""
        field = state.numpy()
        change = np.zeros_like(field)
        for axis, speed, width in zip((2, 3), self.wind, self.grid.spacing, strict=True):
            change -= speed * (field - np.roll(field, 1, axis)) / width
        return torch.from_numpy(field + self.grid.dt * change)

    # Three more, and `zopde correct` makes its own reference data.

    @property
    def options(self) -> Mapping[str, object]:
        """What sets this solver apart from others of its class; written into data files."""
        return {"wind": list(self.wind)}

    def at(self, shape: tuple[int, ...]) -> Tracer:
        """The same physics on another grid."""
        return Tracer(shape[0], self.wind)

    def scenario(self, simulations: int, generator: Generator) -> Scenario:
        """A round blob at a random place, the same one at every resolution."""
        place = 5 + 6 * torch.rand(2, simulations, 1, 1, generator=generator)
        y, x = (torch.tensor(self.grid.centres(axis)) for axis in (0, 1))
        away = (y[:, None] - place[0]) ** 2 + (x - place[1]) ** 2
        return Scenario(torch.exp(-away / 6)[:, None])
