"""What every solver around another solver has in common.

What a solver was asked for.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, Self, final

from zopde.contracts import Forcing, Solver, State, Tally, seeded
from zopde.grid import Grid


@final
class Counts(Counter[str]):
    """Counts by name. A copy in another process begins anew, so the pickle is always the same."""

    def __reduce__(self) -> tuple[Any, ...]:
        """What one process counted is not another's."""
        return Counts, ()


class Wrapper(ABC):
    """A solver around another one: on the same grid, with the same noise.

    It is a `zopde.contracts.Tally`: what it counts itself, and what the solver inside counts.

    Args:
        solver: The solver inside.
    """

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self._counts = Counts()

    @property
    def grid(self) -> Grid:
        """The grid of the solver inside."""
        return self._solver.grid

    @abstractmethod
    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""

    def with_seed(self, seed: int) -> Self:
        """With the noise of the solver inside fixed; this one where it has none."""
        inside = seeded(self._solver, seed)
        if inside is self._solver:
            return self
        twin = copy.copy(self)  # counts where this one counts
        twin._solver = inside
        return twin

    def counts(self) -> Counter[str]:
        """Everything counted so far, by name."""
        inside = self._solver.counts() if isinstance(self._solver, Tally) else Counter[str]()
        return inside + self._counts

    def add(self, counts: Counter[str]) -> None:
        """What a copy in another process has counted."""
        self._counts.update(counts)


_STEPS = "steps"


@final
class CountedSolver(Wrapper):
    """Counts the states that a solver advances.

    A copy, in a worker process for instance, counts from zero; see `zopde.contracts.Tally`.

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
