"""States on which a solver is checked.

Coarse runs that stand in for reference data that nobody has made yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from zopde.contracts import ReferenceSolver, Solver
from zopde.data import Trajectories, load_trajectories, simulate
from zopde.grid import Grid
from zopde.seeding import generator
from zopde.studies.correct.settings import CorrectionConfig
from zopde.timing import median_seconds

_SAMPLE_STEPS = 4


def stand_in_runs(
    config: CorrectionConfig, solver: ReferenceSolver, count: int, kept: int, seconds: float
) -> Trajectories:
    """Coarse runs as long as the data's, or as time allows; their last steps.

    How far a step reaches depends on how fast the flow is, so they must not end at the start.

    Args:
        config: The run that is planned.
        solver: The coarse solver.
        count: Runs.
        kept: Steps at their end that are kept.
        seconds: What they may take, about.
    """
    wanted = config.data.skip + config.data.steps - kept

    def run(skip: int, steps: int) -> Trajectories:
        draw = generator(config.data.seed, "data")
        return simulate(solver, lambda u: u, solver.grid, count, skip, steps, draw, config.dtype)

    each = median_seconds(lambda: run(0, _SAMPLE_STEPS)) / _SAMPLE_STEPS
    skip = max(2, min(wanted, int(seconds / each)))
    return replace(run(skip, kept), settings={"skip": skip})


_STATES, _WAVES = 4, 3
_SECONDS = 5.0  # of the scenario's runs


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
    """States of the data file; else as far into the solver's scenario; else smooth waves.

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
        return _of_scenario(config, solver)
    grid = solver.grid
    state = amplitude * _waves(len(grid.channels), grid, draw)
    forcing = amplitude * _waves(len(grid.forcing_channels), grid, draw)
    return States(
        state.to(config.run.device, config.dtype),
        forcing.to(config.run.device, config.dtype) if grid.forcing_channels else None,
        f"smooth random fields of amplitude {amplitude:g}",
    )


def _of_scenario(config: CorrectionConfig, solver: ReferenceSolver) -> States:
    runs = stand_in_runs(config, solver, _STATES, 1, _SECONDS)
    data = runs.to(config.run.device, config.dtype)
    forcing = None if data.forcing is None else data.forcing[:, -1]
    steps = runs.settings["skip"] + runs.steps
    source = f"the solver's own scenario after {steps} steps"
    return States(data.states[:, -1].contiguous(), forcing, source)


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
