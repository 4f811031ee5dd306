"""What a solver was asked for."""

from __future__ import annotations

from typing import Any, final

from zopde.grid import Grid
from zopde.protocols import Forcing, Solver, State


@final
class CountedSolver:
    """Counts the states that a solver advances.

    A copy, in a worker process for instance, counts from zero; see `zopde.protocols.Tally`.

    Args:
        solver: The solver to watch.

    Attributes:
        steps: Solver steps so far, each state of a batch counted.
    """

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self.steps = 0

    @property
    def grid(self) -> Grid:
        """The solver's grid."""
        return self._solver.grid

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        self.steps += len(state)
        return self._solver.step(state, forcing)

    def __getstate__(self) -> dict[str, Any]:
        # What one process counted is not another's; and the pickle is the same at any count.
        return {**self.__dict__, "steps": 0}
