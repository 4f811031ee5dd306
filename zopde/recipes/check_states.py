"""States on which a solver is checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from zopde.data import load_trajectories
from zopde.grid import Grid
from zopde.protocols import ReferenceSolver, Solver
from zopde.recipes.config import CorrectionConfig
from zopde.seeding import generator

_STATES, _STEPS, _WAVES = 4, 5, 3


@dataclass(frozen=True)
class States:
    """Typical inputs of a solver.

    Args:
        state: (batch, channel, *space).
        forcing: (batch, forcing_channel, *space), or None.
        source: Where they come from.
    """

    state: Tensor
    forcing: Tensor | None
    source: str

    @property
    def scale(self) -> float:
        """Root mean square of the channels' standard deviations."""
        found = self.state.transpose(0, 1).flatten(1).double().var(dim=1, correction=0).mean()
        return float(found.sqrt()) or 1.0

    def rows(self, chosen: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Some of them."""
        return self.state[chosen], None if self.forcing is None else self.forcing[chosen]


def typical_states(config: CorrectionConfig, solver: Solver, amplitude: float) -> States:
    """States of the data file; else of the solver's scenario, a few steps on; else smooth waves.

    Args:
        config: Names the data file, if there is one, and the precision.
        solver: The coarse solver.
        amplitude: Of the waves, in the state's units.
    """
    draw = generator(config.data.seed, "probes")
    if config.data.path:
        found = load_trajectories(Path(config.data.path), solver.grid, None)
        data = found.to(config.run.device, config.dtype)
        rows = torch.randperm(data.simulations * data.steps, generator=draw)[:_STATES]
        forcing = None if data.forcing is None else data.forcing[:, :-1].flatten(0, 1)[rows]
        state = data.states[:, :-1].flatten(0, 1)[rows].contiguous()
        return States(state, forcing, config.data.path)
    if isinstance(solver, ReferenceSolver):
        return _of_scenario(config, solver, draw)
    grid = solver.grid
    state = amplitude * _waves(len(grid.channels), grid, draw)
    forcing = amplitude * _waves(len(grid.forcing_channels), grid, draw)
    return States(
        state.to(config.run.device, config.dtype),
        forcing.to(config.run.device, config.dtype) if grid.forcing_channels else None,
        f"smooth random fields of amplitude {amplitude:g}",
    )


def _of_scenario(config: CorrectionConfig, solver: ReferenceSolver, draw: Generator) -> States:
    scenario = solver.scenario(_STATES, draw)

    def forcing(step: int) -> Tensor | None:
        if scenario.forcing is None:
            return None
        return scenario.forcing(step).to(config.run.device, config.dtype)

    state = scenario.initial.to(config.run.device, config.dtype)
    for step in range(_STEPS):
        state = solver.step(state, forcing(step))
    return States(state, forcing(_STEPS), f"the solver's own scenario after {_STEPS} steps")


def _waves(channels: int, grid: Grid, draw: Generator) -> Tensor:
    """Sums of a few long waves that fit the domain, of root mean square 1."""
    axes = [(torch.arange(n) + 0.5) / n for n in grid.shape]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    found = torch.zeros(_STATES, channels, *grid.shape)
    for row in range(_STATES):
        for channel in range(channels):
            for _ in range(_WAVES):
                wave = torch.randint(-2, 3, (len(axes),), generator=draw).float()
                turns = (wave.view(-1, *[1] * len(axes)) * places).sum(dim=0)
                phase = torch.rand(1, generator=draw)
                found[row, channel] += torch.sin(2 * torch.pi * (turns + phase))
    return found * math.sqrt(2 / _WAVES)
