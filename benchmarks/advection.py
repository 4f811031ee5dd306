"""A solver in plain torch, alone and with a corrector in one network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zopde import Grid


class Advection:
    """A torch-native step of the 2-D Burgers equation: central differences, explicit Euler."""

    grid = Grid(shape=(32, 32), extent=(32.0, 32.0), dt=0.1, channels=("u", "v"))

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """u' = u + dt (nu lap u - (u . grad) u + f), periodic, dx = 1."""
        east, west = state.roll(-1, 3), state.roll(1, 3)
        north, south = state.roll(-1, 2), state.roll(1, 2)
        carried = state[:, :1] * (east - west) / 2 + state[:, 1:] * (north - south) / 2
        spread = 0.1 * (east + west + north + south - 4 * state)
        pushed = 0.0 if forcing is None else forcing
        return state + self.grid.dt * (spread - carried + pushed)


class Unrolled(nn.Module):
    """The corrector in the loop, as a network that DeepZero's code can call."""

    def __init__(self, corrector: nn.Module, forcing: Tensor) -> None:
        super().__init__()
        self.corrector, self.solver, self.forcing = corrector, Advection(), forcing

    def forward(self, stepped: Tensor) -> Tensor:
        """States after 1, 2, ... corrected steps, (batch, steps, 2, 32, 32)."""
        states = [stepped + self.corrector(stepped, self.forcing[:, 0])]
        for k in range(1, self.forcing.shape[1]):
            ahead = self.solver.step(states[-1], self.forcing[:, k])
            states.append(ahead + self.corrector(ahead, self.forcing[:, k]))
        return torch.stack(states, dim=1)
