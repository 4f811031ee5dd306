"""Solvers around a solver: what they share, the line that no gradient crosses, and a counter."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, Self, final

import torch
from torch import Tensor

from zopde.contracts import CHECKING, Forcing, Solver, State, counts_of, seedable, seeded
from zopde.errors import SolverError, first_line
from zopde.grid import Grid


@final
class Counts(Counter[str]):
    """Counts by name. A copy in another process begins anew, so the pickle is always the same."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Counts, ()


class Wrapper(ABC):
    """A solver around another one: on the same grid, with the same noise.

    It is a `zopde.contracts.Tally`: what it counts itself, and what the solver inside counts.

    Args:
        solver: The solver inside.

    Attributes:
        seedable: Whether the noise of the solver inside can be fixed.
    """

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self._own_counts, self._checking = Counts(), Counts()
        self.seedable = seedable(solver)

    @property
    def _counts(self) -> Counts:
        """Where to count: what a comparison of probes takes is nobody's cost but its own."""
        return self._checking if CHECKING.get() else self._own_counts

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
        return counts_of(self._solver) + self._counts

    def add(self, counts: Counter[str]) -> None:
        """What a copy in another process has counted."""
        self._counts.update(counts)


@final
class BlackBox(Wrapper):
    """A solver as the rest of zopde sees it, whatever it is inside.

    States go in detached, so that `state.numpy()` works, and come out detached, so that nothing
    is differentiated by accident: an `UnrolledObjective` over a `BlackBox` is NOG even where the
    solver is written in torch.

    Args:
        solver: The user's solver.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`.

        Raises:
            SolverError: If the solver raises, or returns something else than a tensor of the
                state's shape, dtype and device.
        """
        detached = None if forcing is None else forcing.detach()
        try:
            with torch.no_grad():
                stepped = self._solver.step(state.detach(), detached)
        except SolverError:
            raise
        except Exception as error:  # it is the user's code and may raise anything
            kind = type(error).__name__
            raise SolverError(f"step raised {kind}: {first_line(error)}") from error
        if not isinstance(stepped, Tensor):
            raise SolverError(f"step: got {type(stepped).__name__}, expected a torch.Tensor")
        for name in ("shape", "dtype", "device"):
            got, expected = getattr(stepped, name), getattr(state, name)
            if got != expected:
                raise SolverError(f"step: got {name} {got}, expected the state's {expected}")
        return stepped.detach()


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
        return self._counts["steps"]

    @steps.setter
    def steps(self, count: int) -> None:
        self._counts["steps"] = count

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        self.steps += len(state)
        return self._solver.step(state, forcing)
