"""Solvers around a solver: what they share, the line that no gradient crosses, and a counter."""

from __future__ import annotations

import copy
import os
import sys
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import suppress
from typing import Any, Self, final

import torch
from torch import Tensor

from zopde.contracts import (
    CHECKING,
    Domain,
    Forcing,
    Solver,
    State,
    counts_of,
    filled,
    seedable,
    seeded,
    spread,
)
from zopde.errors import MistakeError, SolverError, first_line, is_interrupt
from zopde.seeding import Streams, global_streams, set_global_streams

_ALWAYS, _SELDOM = 8, 64  # steps after which the random streams are looked at


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
        """Where to count: what a comparison takes is nobody's cost but its own."""
        return self._checking if CHECKING.get() else self._own_counts

    @property
    def grid(self) -> Domain:
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
        """Everything counted so far, by name; of comparisons the steps alone, as "checking"."""
        checking = Counter(checking=self._checking["steps"])
        return counts_of(self._solver) + self._own_counts + checking

    def add(self, counts: Counter[str]) -> None:
        """What a copy in another process has counted."""
        self._counts.update(counts)


@final
class _Surroundings:
    """What a foreign step may change in this process, and how it is put back.

    A solver that draws from the global random streams goes on in streams of its own, so that its
    noise never repeats. To look at them takes longer than a small step: it is done at the first
    steps and then at some; at every step of a solver that was seen to touch them.
    """

    def __init__(self) -> None:
        self._steps, self._own = 0, list[Streams]()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Surroundings, ()

    def before(self) -> tuple[Any, Streams | None]:
        """What there is to put back."""
        self._steps += 1
        looking = self._own or self._steps <= _ALWAYS or self._steps % _SELDOM == 0
        streams = global_streams() if looking else None
        if self._own:
            set_global_streams(self._own[0])
        return _plain(), streams

    def after(self, plain: tuple[Any, ...], streams: Streams | None) -> None:
        """Put it back."""
        if streams is not None and (now := global_streams()) != streams:
            self._own[:] = [now]
            set_global_streams(streams)
        if _plain() != plain:
            torch.set_default_dtype(plain[0])
            torch.set_num_threads(plain[1])
            with suppress(OSError):
                os.chdir(plain[2])
            sys.stdout, sys.stderr = (_open(f, n) for n, f in enumerate(plain[3:5], start=1))


def _plain() -> tuple[Any, ...]:
    out, err = sys.stdout, sys.stderr
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        folder = ""
    closed = getattr(out, "closed", False), getattr(err, "closed", False)
    return torch.get_default_dtype(), torch.get_num_threads(), folder, out, err, *closed


def _open(stream: Any, number: int) -> Any:  # noqa: ANN401 - whatever stands for stdout
    """A stream, or, where it was closed, another to where the process itself writes."""
    with suppress(OSError):
        if getattr(stream, "closed", False):
            return open(number, "w", buffering=1, closefd=False)
    return stream


@final
class BlackBox(Wrapper):
    """Makes a solver a black box: what goes in and comes out is checked, no gradient passes.

    States go in as copies, detached, so that a solver may write into them; answers come out as
    copies, so that one may answer in the same memory every time. Outside of the grid's mask it sees
    what the grid's `fill` says, and whatever it answers becomes 0. Nothing is differentiated by
    accident: an `UnrolledObjective` over a `BlackBox` is NOG even where the solver is written in
    torch. What a step changes in the process around it is put back: torch's default dtype and
    threads, the working folder, stdout and stderr, the global random streams. Whatever it raises,
    `SystemExit` too, is a failed step; only Ctrl-C goes through.

    Args:
        solver: The user's solver.
    """

    def __init__(self, solver: Solver) -> None:
        super().__init__(solver)
        self._surroundings = _Surroundings()

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`.

        Raises:
            SolverError: If the solver raises. One that answers something else than a tensor of
                the state's shape, dtype and device is mistaken: nobody goes on after that.
        """
        around, grid = self._surroundings.before(), self.grid
        try:
            with torch.no_grad():  # under which a copy is detached
                given = None if forcing is None else spread(grid, forcing.clone())
                stepped = self._solver.step(spread(grid, state.clone()), given)
                if type(stepped) is Tensor:
                    stepped = stepped.clone()
                elif isinstance(stepped, Tensor):
                    stepped = stepped.as_subclass(Tensor).clone()
        except SolverError as error:
            if error.answers is not None and error.answers.shape == state.shape:
                error.answers = filled(grid, error.answers)
            raise
        except BaseException as error:  # it is the user's code and may raise anything
            if is_interrupt(error):
                raise
            kind = type(error).__name__
            raise SolverError(f"step raised {kind}: {first_line(error)}") from error
        finally:
            self._surroundings.after(*around)
        if not isinstance(stepped, Tensor):
            raise MistakeError(f"step: got {type(stepped).__name__}, expected a torch.Tensor")
        for name in ("shape", "dtype", "device", "layout"):
            got, expected = getattr(stepped, name), getattr(state, name)
            if got != expected:
                raise MistakeError(f"step: got {name} {got}, expected the state's {expected}")
        return filled(grid, stepped)


@final
class Filled(Wrapper):
    """Fills what a solver is given outside of the grid's mask, and puts 0 there in its answer.

    A `BlackBox` does the same; this one carries the gradient of a differentiable twin.

    Args:
        solver: The twin.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        grid = self.grid
        return filled(grid, self._solver.step(spread(grid, state), spread(grid, forcing)))


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

    @property
    def compared(self) -> int:
        """Solver steps so far that compared numbers with the solver's own: no part of `steps`."""
        return self._checking["steps"]

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        self._counts["steps"] += len(state)
        return self._solver.step(state, forcing)
