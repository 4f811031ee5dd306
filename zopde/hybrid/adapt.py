"""Solvers that take one state at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch

from zopde.errors import Failure, SolverError
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
        answers, failures = [], []
        for i in range(len(state)):
            one = state[i : i + 1]
            try:
                answer = self._solver.step(one, None if forcing is None else forcing[i : i + 1])
            except SolverError as error:
                answer = torch.full_like(one, torch.nan)
                known = error.failures[0] if error.failures else Failure(0, str(error))
                failures.append(replace(known, row=i))
            answers.append(answer)
        if failures:
            first = f"{len(failures)} of {len(state)} states failed; the first: "
            raise SolverError(first + failures[0].reason, failures, torch.cat(answers))
        return torch.cat(answers)
