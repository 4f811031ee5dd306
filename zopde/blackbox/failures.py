"""What happens when a solver fails: step again, or do without. Solvers of one state at a time."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from zopde.blackbox.wrapper import Wrapper
from zopde.contracts import Forcing, Solver, State, counts_of
from zopde.errors import (
    NOT_FINITE,
    Failure,
    InputError,
    MistakeError,
    SolverError,
    StepError,
)
from zopde.validate import check_positive, checked

_FAILED, _ATTEMPTS = "failed: ", "attempts"  # names of counts
_FIRST = 100  # steps before a share of them means anything
_FRACTION = re.compile(r"\d*\.\d+(e[-+]?\d+)?")
_REASONS, _LENGTH = 20, 100  # reasons that are told apart, and letters of each
Step = Callable[[State, Forcing | None], State]
Stepped = tuple[State, list[Failure]]
"""The states after a step, NaN or worse where it failed, and which failed, why."""


@final
class Retrying(Wrapper):
    """Repeats the step of a solver for the states that failed, and only for those.

    A state fails when the solver says so (`SolverError`), or when its step from finite numbers
    is not finite. What still fails after the last attempt is raised in the first case and
    returned as it is in the second: a rollout may diverge. Every failed attempt is counted, by
    reason; see `failures_of`. A state that is not finite itself never reaches the solver: its
    step is NaN.

    Args:
        solver: The solver inside. After an error that does not say which states failed, it
            steps each state alone.
        times: Attempts after the first, >= 0.
        limit: Share of the steps that may fail; beyond it a `SolverError` ends everything. The
            first 100 steps count as one.

    Raises:
        InputError: If a number is out of range.
    """

    @checked
    def __init__(self, solver: Solver, times: int = 2, limit: float = 1.0) -> None:
        super().__init__(solver)
        check_positive("limit", limit, most=1)
        if times < 0:
            raise InputError("times", got=times, expected="a whole number >= 0")
        self._times, self._limit = times, limit

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`.

        Raises:
            SolverError: With the states that failed at every attempt, and the steps of the
                others; or if more than the limit fail.
        """
        if _finite(state) and (forcing is None or _finite(forcing)):
            stepped, failures = self._attempt(state, forcing)
        else:
            rows = _finite_rows(state, forcing).nonzero().flatten()
            stepped, failures = torch.full_like(state, torch.nan), []
            if len(rows):
                stepped[rows], failures = self._attempt_at(rows, state, forcing)
        for _ in range(self._times):
            if failures:
                rows = torch.tensor([failure.row for failure in failures], device=state.device)
                stepped = stepped.clone()  # what a solver returned may be its own memory
                stepped[rows], failures = self._attempt_at(rows, state, forcing)
        return whole(stepped, [f for f in failures if not f.reason.startswith(NOT_FINITE)])

    def _attempt_at(self, rows: Tensor, state: State, forcing: Forcing | None) -> Stepped:
        """Step some rows of a batch; the failures say which row of the batch."""
        of_rows = None if forcing is None else forcing[rows]
        stepped, failures = self._attempt(state[rows], of_rows)
        return stepped, [replace(f, row=int(rows[f.row])) for f in failures]

    def _attempt(self, state: State, forcing: Forcing | None) -> Stepped:
        self._counts[_ATTEMPTS] += len(state)
        try:
            stepped, failures = self._solver.step(state, forcing), list[Failure]()
        except SolverError as error:
            of_all = not _says_which(error, state)
            if of_all and not self._times:
                self._note([Failure(0, str(error))])
                raise
            if of_all and len(state) > 1 and not isinstance(error, MistakeError):
                self._counts[_ATTEMPTS] += len(state)  # each alone
                self._note([Failure(0, str(error))])
            stepped, failures = recovered(error, self._solver.step, state, forcing)
        if not _finite(stepped):
            known = {failure.row for failure in failures}
            bad = (~_finite_rows(stepped)).nonzero().flatten().tolist()
            failures += [Failure(row, NOT_FINITE) for row in bad if row not in known]
        if failures:
            self._note(failures)
        return stepped, failures

    def _note(self, failures: Sequence[Failure]) -> None:
        for failure in failures:
            # A time or a residual in it would make every reason another one.
            name = _FAILED + _FRACTION.sub("...", failure.reason)[:_LENGTH]
            full = len(self._counts) > _REASONS and name not in self._counts
            self._counts[_FAILED + "other" if full else name] += 1
        failed = sum(n for name, n in self._counts.items() if name.startswith(_FAILED))
        attempts = self._counts[_ATTEMPTS]
        if failed > self._limit * max(attempts, _FIRST):
            raise TooManyFailuresError(
                f"{failed:,} of {attempts:,} solver steps failed, more than the limit of "
                f"{100 * self._limit:g} %; the latest: {failures[-1].described()}"
            )


@final
class Dropping(Wrapper):
    """Lets a solver go on after failed steps: the states that failed become NaN.

    Whoever reads it leaves it out: a probe of a gradient, an iteration without its base.

    Args:
        solver: The solver inside, `Retrying` as a rule.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        return step_or_nan(self._solver.step, state, forcing)[0]


@final
class OneAtATime(Wrapper):
    """Feeds a batch to a solver that accepts only a batch of one.

    Args:
        solver: A `Solver` whose `step` takes (1, channel, *space).
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Step every state of the batch in turn; see `zopde.Solver.step`.

        Raises:
            SolverError: With the states that failed, and the steps of the others.
        """
        return whole(*one_by_one(self._solver.step, state, forcing))


@final
class TooManyFailuresError(MistakeError):
    """More steps failed than the limit allows: nobody may go on after this."""


def step_or_nan(step: Step, state: State, forcing: Forcing | None) -> Stepped:
    """A solver's step, NaN where it fails, and why it does."""
    try:
        return step(state, forcing), []
    except SolverError as error:
        return recovered(error, step, state, forcing)
    except StepError as error:
        return torch.full_like(state, torch.nan), [error.at(0)]


def recovered(error: SolverError, step: Step, state: State, forcing: Forcing | None) -> Stepped:
    """What an error leaves of a batch: its step, NaN where it failed, and why.

    Where it does not say which states failed, each is stepped alone.
    """
    if isinstance(error, MistakeError):
        raise error
    if error.answers is not None and _says_which(error, state):
        return error.answers.to(state), list(error.failures)
    if len(state) == 1:
        known = error.failures[0] if error.failures else Failure(0, str(error))
        return torch.full_like(state, torch.nan), [replace(known, row=0)]
    return one_by_one(step, state, forcing)


def one_by_one(step: Step, state: State, forcing: Forcing | None) -> Stepped:
    """The step of each state alone; see `step_or_nan`."""
    forcings = [None] * len(state) if forcing is None else forcing.split(1)
    alone = [step_or_nan(step, *row) for row in zip(state.split(1), forcings, strict=True)]
    failures = [replace(f, row=i) for i, (_, of_row) in enumerate(alone) for f in of_row]
    answers = [stepped for stepped, _ in alone]
    for odd in answers:
        if not isinstance(odd, Tensor):
            raise MistakeError(f"step: got {type(odd).__name__}, expected a torch.Tensor")
    return torch.cat(answers), failures


def whole(stepped: State, failures: Sequence[Failure]) -> State:
    """The step of a batch; a `SolverError` that carries it where some states failed."""
    if failures:
        message = f"{len(failures)} of {len(stepped)} states failed; the first: "
        raise SolverError(message + failures[0].described(), failures, stepped)
    return stepped


def failures_of(solver: object) -> Counter[str]:
    """Tell how many steps of a solver failed, by reason, as far as anything has counted them."""
    counts = counts_of(solver).items()
    return Counter({n.removeprefix(_FAILED): k for n, k in counts if n.startswith(_FAILED)})


def _says_which(error: SolverError, state: State) -> bool:
    """Whether an error says which states failed, and what became of the others."""
    return bool(error.failures) and error.answers is not None and error.answers.shape == state.shape


def _finite(values: Tensor) -> bool:
    # One pass, no mask; a sum that overflows is looked at closely afterwards.
    return math.isfinite(values.sum().item()) or bool(values.isfinite().all())


def _finite_rows(state: Tensor, forcing: Tensor | None = None) -> Bool[Tensor, " batch"]:
    rows = state.flatten(1).isfinite().all(dim=1)
    return rows if forcing is None else rows & forcing.flatten(1).isfinite().all(dim=1)
