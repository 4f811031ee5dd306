"""States on which a solver is checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from zopde.contracts import Domain, Solver
from zopde.interface import Step, Variable
from zopde.interface.scales import channel_scale
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
    grid: Domain  # the solver's

    @property
    def scale(self) -> float:
        """Root mean square of the channels' standard deviations."""
        values = self.grid.fluid_values(self.state).transpose(0, 1).flatten(1)
        return float(values.double().var(dim=1, correction=0).mean().sqrt()) or 1.0

    def scales(self, variable: Variable, mu: float) -> Tensor:
        """(channel,), what the interface cut's `mu` is in units of."""
        values = self.state if variable == "state" else self.forcing
        assert values is not None, "no forcing, no influence of it"
        return channel_scale(self.grid.fluid_values(values).transpose(0, 1).flatten(1), mu)

    def rows(self, chosen: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Some of them."""
        return self.state[chosen], None if self.forcing is None else self.forcing[chosen]

    def step(self, solver: Solver, count: int = _STATES) -> Step:
        """A step from the first `count` of them."""
        state, forcing = self.rows(slice(count))
        return Step(solver, state, forcing, solver.step(state, forcing))


def typical_states(
    reference: Reference, from_file: bool, amplitude: float, positive: bool = False
) -> States:
    """States of the data file; else as far into the solver's scenario; else smooth waves.

    `from_file`: whether there is a data file. `amplitude`, of the waves, is in the state's units.
    `positive`: whether the forcing is a parameter, which is the amplitude times exp of a wave.
    """
    grid, draw = reference.solver.grid, generator(reference.seed, "probes")
    device, dtype = reference.device, reference.dtype
    if from_file:
        data = reference.read().to(device, dtype)
        whole = data.whole[:, :-1].flatten().cpu().nonzero().flatten()
        rows = whole[torch.randperm(len(whole), generator=draw)[:_STATES]]
        forcing = None if data.forcing is None else data.forcing[:, :-1].flatten(0, 1)[rows]
        state = data.states[:, :-1].flatten(0, 1)[rows].contiguous()
        return States(state, forcing, reference.source, grid)
    if reference.can_be_made:
        data = reference.stand_in(_STATES, 1, _SECONDS).to(device, dtype)
        forcing = None if data.forcing is None else data.forcing[:, -1]
        steps = data.settings["skip"] + data.steps
        source = f"the solver's own scenario after {steps} steps"
        return States(data.states[:, -1].contiguous(), forcing, source, grid)
    state = amplitude * _waves(len(grid.channels), grid, draw).to(device, dtype)
    waves = _waves(len(grid.forcing_channels), grid, draw).to(device, dtype)
    given = amplitude * (grid.filled(waves.exp()) if positive else waves)
    source = f"smooth random fields of amplitude {amplitude:g}"
    source += "; parameters are positive" if positive else ""
    return States(state, given if grid.forcing_channels else None, source, grid)


def _waves(channels: int, grid: Domain, draw: Generator) -> Tensor:
    """Sums of a few long waves that fit the domain, of root mean square 1."""
    places = grid.places.float()
    fields = torch.zeros(_STATES, channels, *grid.shape)
    for row in range(_STATES):
        for channel in range(channels):
            for _ in range(_WAVES):
                wave = torch.randint(-2, 3, (len(places),), generator=draw).float()
                turns = (wave.view(-1, *[1] * len(grid.shape)) * places).sum(dim=0)
                phase = torch.rand(1, generator=draw)
                fields[row, channel] += torch.sin(2 * torch.pi * (turns + phase))
    return grid.filled(fields * math.sqrt(2 / _WAVES))
