"""Solvers that take one state at a time."""

from __future__ import annotations

from typing import final

from zopde.hybrid.failures import error_of, one_by_one
from zopde.hybrid.wrapper import Wrapper
from zopde.protocols import Forcing, State


@final
class OneAtATime(Wrapper):
    """Feeds a batch to a solver that accepts only a batch of one.

    Args:
        solver: A `Solver` whose `step` takes (1, channel, *space).
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Step every state of the batch in turn; see `zopde.Solver.step`.

        Raises:
            SolverError: With the states that failed, and the answers of the others.
        """
        answers, failures = one_by_one(self._solver, state, forcing)
        if failures:
            raise error_of(failures, answers)
        return answers
