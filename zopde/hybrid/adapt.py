"""Solvers that take one state at a time."""

from __future__ import annotations

from typing import final

import torch

from zopde.grid import Grid
from zopde.protocols import Forcing, Solver, State


@final
class OneAtATime:
    """Feeds a batch to a solver that accepts only a batch of one.

    Args:
        solver: A `Solver` whose `step` takes (1, channel, *space).
    """

    def __init__(self, solver: Solver) -> None:
        self._solver = solver

    @property
    def grid(self) -> Grid:
        """The wrapped solver's grid."""
        return self._solver.grid

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Step every state of the batch in turn; see `zopde.Solver.step`."""
        answers = [
            self._solver.step(state[i : i + 1], None if forcing is None else forcing[i : i + 1])
            for i in range(len(state))
        ]
        return torch.cat(answers)
