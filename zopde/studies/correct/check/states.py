"""States on which a solver is checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from zopde.data import load_trajectories
from zopde.grid import Grid
from zopde.seeding import generator
from zopde.studies.correct.reference import Reference

_STATES, _WAVES = 4, 3
_SECONDS = 5.0  # of runs of the solver's own scenario


@dataclass(frozen=True)
class States:
    """Typical inputs of a solver."""

    state: Tensor  # (batch, channel, *space)
    forcing: Tensor | None  # (batch, forcing_channel, *space), or None
    source: str  # where they come from

    @property
    def scale(self) -> float:
        """Root mean square of the channels' standard deviations."""
        found = self.state.transpose(0, 1).flatten(1).double().var(dim=1, correction=0).mean()
        return float(found.sqrt()) or 1.0

    def rows(self, chosen: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Some of them."""
        return self.state[chosen], None if self.forcing is None else self.forcing[chosen]


def typical_states(reference: Reference, path: str, amplitude: float) -> States:
    """States of the data file; else as far into the solver's scenario; else smooth waves.

    Args:
        reference: The planned data of the coarse solver.
        path: The data file; "" where there is none.
        amplitude: Of the waves, in the state's units.
    """
    solver, draw = reference.solver, generator(reference.seed, "probes")
    like = torch.empty(0, device=reference.device, dtype=reference.dtype)
    if path:
        data = load_trajectories(Path(path), solver.grid, None).to(like.device, like.dtype)
        rows = torch.randperm(data.simulations * data.steps, generator=draw)[:_STATES]
        forcing = None if data.forcing is None else data.forcing[:, :-1].flatten(0, 1)[rows]
        state = data.states[:, :-1].flatten(0, 1)[rows].contiguous()
        return States(state, forcing, path)
    if reference.can_be_made:
        data = reference.stand_in(_STATES, 1, _SECONDS).to(like.device, like.dtype)
        forcing = None if data.forcing is None else data.forcing[:, -1]
        steps = data.settings["skip"] + data.steps
        source = f"the solver's own scenario after {steps} steps"
        return States(data.states[:, -1].contiguous(), forcing, source)
    grid = solver.grid
    state = amplitude * _waves(len(grid.channels), grid, draw)
    forcing = amplitude * _waves(len(grid.forcing_channels), grid, draw)
    return States(
        state.to(like),
        forcing.to(like) if grid.forcing_channels else None,
        f"smooth random fields of amplitude {amplitude:g}",
    )


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
