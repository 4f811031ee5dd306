"""Reference trajectories, and how a fine solver makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import ReferenceSolver
from zopde.grid import Grid

Settings = dict[str, Any]


@dataclass(frozen=True)
class Trajectories:
    """Reference states of several simulations on one grid.

    Args:
        grid: The (coarse) grid.
        states: (simulation, time, channel, *space).
        forcing: (simulation, time, forcing_channel, *space), or None; entry t drove the step
            from t to t + 1.
        settings: Everything that decided the numbers; plain values, by name.
    """

    grid: Grid
    states: Float[Tensor, "simulation time channel *space"]
    forcing: Float[Tensor, "simulation time forcing_channel *space"] | None = None
    settings: Settings = field(default_factory=dict)

    @property
    def simulations(self) -> int:
        """Number of simulations."""
        return self.states.shape[0]

    @property
    def steps(self) -> int:
        """Number of steps of each simulation; it has one more state than that."""
        return self.states.shape[1] - 1

    def take(self, simulations: slice) -> Trajectories:
        """Some of the simulations."""
        forcing = None if self.forcing is None else self.forcing[simulations]
        return replace(self, states=self.states[simulations], forcing=forcing)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Trajectories:
        """The same numbers elsewhere."""
        forcing = None if self.forcing is None else self.forcing.to(device, dtype)
        return replace(self, states=self.states.to(device, dtype), forcing=forcing)

    def state_scale(self) -> Float[Tensor, " channel"]:
        """Standard deviation of every state channel over simulations, time and space."""
        return _scale(self.states)

    def forcing_scale(self) -> Float[Tensor, " forcing_channel"]:
        """Likewise of every forcing channel; empty without forcing."""
        return self.states.new_zeros(0) if self.forcing is None else _scale(self.forcing)


def simulate(
    solver: ReferenceSolver,
    coarse: Callable[[Tensor], Tensor],
    coarse_grid: Grid,
    simulations: int,
    skip: int,
    steps: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
    coarse_forcing: Callable[[Tensor], Tensor] | None = None,
) -> Trajectories:
    """Run a fine solver from random scenarios and keep what the coarse grid can hold.

    Args:
        solver: The solver on the fine grid.
        coarse: Brings (batch, channel, *fine) to the coarse grid, for example `downsample`.
        coarse_grid: The grid it arrives on.
        simulations: Number of random cases, >= 1.
        skip: Steps before the first kept state, >= 0.
        steps: Steps kept; there is one more state than that.
        generator: Draws the scenarios.
        dtype: Precision of solver and result.
        device: Where to compute.
        progress: Called with 1 after every solver step.
        coarse_forcing: Brings a forcing to the coarse grid; left out, `coarse` does.
    """
    bring_forcing = coarse_forcing or coarse
    scenario = solver.scenario(simulations, generator)
    state = scenario.initial.to(device, dtype)
    states, forcings = [], []
    for t in range(skip + steps + 1):
        forcing = scenario.forcing(t).to(device, dtype) if scenario.forcing else None
        if t >= skip:
            states.append(coarse(state))
            if forcing is not None:
                forcings.append(bring_forcing(forcing))
        if t < skip + steps:
            state = solver.step(state, forcing)
            if progress:
                progress(1)
    stacked = torch.stack(forcings, dim=1) if forcings else None
    return Trajectories(coarse_grid, torch.stack(states, dim=1), stacked)


def _scale(values: Tensor) -> Tensor:
    per_channel = values.transpose(0, 2).flatten(1)
    # A constant channel carries nothing to scale; dividing by 1 leaves it alone.
    deviation = per_channel.std(dim=1)
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))
