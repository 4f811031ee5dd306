"""What a solver was asked for."""

from __future__ import annotations

from typing import final

from zopde.hybrid.wrapper import Wrapper
from zopde.protocols import Forcing, State

_STEPS = "steps"


@final
class CountedSolver(Wrapper):
    """Counts the states that a solver advances.

    A copy, in a worker process for instance, counts from zero; see `zopde.protocols.Tally`.

    Args:
        solver: The solver to watch.
    """

    @property
    def steps(self) -> int:
        """Solver steps so far, each state of a batch counted."""
        return self._counts[_STEPS]

    @steps.setter
    def steps(self, count: int) -> None:
        self._counts[_STEPS] = count

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        self.steps += len(state)
        return self._solver.step(state, forcing)
