"""What happens when a solver fails: ask again, or do without.

Solvers that take one state at a time.
"""

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
from zopde.contracts import Forcing, Solver, State, Tally
from zopde.errors import Failure, InputError, SolverError
from zopde.validate import check_positive

_FAILED, _ASKED = "failed: ", "asked"
_NOT_FINITE = "an answer that is not finite"
_FIRST = 100  # steps before a share of them means anything
_FRACTION = re.compile(r"\d*\.\d+(e[-+]?\d+)?")
_KINDS, _LENGTH = 20, 100  # reasons that are told apart, and letters of each


@final
class Retrying(Wrapper):
    """Asks again about the states that failed, and only about those.

    A state fails when the solver says so (`SolverError`), or when its answer to finite numbers
    is not finite. What still fails after the last attempt is raised in the first case and
    answered as it is in the second: a rollout may diverge. Every failed attempt is counted, by
    reason; see `failures_of`. A state that is not finite itself is not asked about: its answer
    is NaN.

    Args:
        solver: The solver inside. An error that does not say which states failed makes it
            asked about one state at a time.
        times: Attempts after the first, >= 0.
        limit: Share of the steps that may fail; beyond it a `SolverError` ends everything. The
            first 100 steps count as one.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(self, solver: Solver, times: int = 2, limit: float = 1.0) -> None:
        super().__init__(solver)
        check_positive("limit", limit)
        if times < 0:
            raise InputError("times", got=times, expected="a whole number >= 0")
        self._times, self._limit = times, limit

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`.

        Raises:
            SolverError: With the states that failed at every attempt, and the answers of the
                others; or if more than the limit fail.
        """
        usable = _finite_rows(state, forcing)
        if bool(usable.all()):
            answers, failures = self._attempts(state, forcing)
        else:
            rows = usable.nonzero().flatten()
            answers, failures = torch.full_like(state, torch.nan), []
            if len(rows):
                answers[rows], found = self._attempts(state[rows], _take(forcing, rows))
                failures = [replace(f, row=int(rows[f.row])) for f in found]
        fatal = [failure for failure in failures if failure.reason != _NOT_FINITE]
        if fatal:
            raise error_of(fatal, answers)
        return answers

    def _attempts(self, state: State, forcing: Forcing | None) -> tuple[State, list[Failure]]:
        answers, failures = self._attempt(state, forcing)
        for _ in range(self._times):
            if not failures:
                break
            rows = torch.tensor([failure.row for failure in failures], device=state.device)
            answers = answers.clone()  # what a solver answered may be its own memory
            answers[rows], left = self._attempt(state[rows], _take(forcing, rows))
            failures = [replace(f, row=int(rows[f.row])) for f in left]
        return answers, failures

    def _attempt(self, state: State, forcing: Forcing | None) -> tuple[State, list[Failure]]:
        self._counts[_ASKED] += len(state)

        def each_alone(failures: Sequence[Failure]) -> None:
            self._counts[_ASKED] += len(state)
            self._note(failures)

        try:
            answers, failures = self._solver.step(state, forcing), list[Failure]()
        except SolverError as error:
            if self._times or _tells(error, state):
                answers, failures = taken(error, self._solver, state, forcing, each_alone)
            else:
                self._note([Failure(0, str(error))])
                raise
        if not _finite(answers):
            known = {failure.row for failure in failures}
            bad = (~_finite_rows(answers)).nonzero().flatten().tolist()
            failures += [Failure(row, _NOT_FINITE) for row in bad if row not in known]
        if failures:
            self._note(failures)
        return answers, failures

    def _note(self, failures: Sequence[Failure]) -> None:
        for failure in failures:
            # A time or a residual in it would make every reason another one.
            name = _FAILED + _FRACTION.sub("...", failure.reason)[:_LENGTH]
            full = len(self._counts) > _KINDS and name not in self._counts
            self._counts[_FAILED + "other" if full else name] += 1
        failed = sum(n for name, n in self._counts.items() if name.startswith(_FAILED))
        asked = self._counts[_ASKED]
        if failed > self._limit * max(asked, _FIRST):
            raise TooManyFailuresError(
                f"{failed:,} of {asked:,} solver steps failed, more than the limit of "
                f"{100 * self._limit:g} %; the latest: {_described(failures[-1])}"
            )


@final
class Dropping(Wrapper):
    """Answers NaN for the states that failed, and goes on.

    Whoever reads it leaves it out: a probe of a gradient, an iteration without its base.

    Args:
        solver: The solver inside, `Retrying` as a rule.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        return answered(self._solver, state, forcing)[0]


@final
class TooManyFailuresError(SolverError):
    """More steps failed than the limit allows: nobody may go on after this."""


Note = Callable[[Sequence[Failure]], None]


def answered(solver: Solver, state: State, forcing: Forcing | None) -> tuple[State, list[Failure]]:
    """What a solver answers, NaN where it fails, and why it does."""
    try:
        return solver.step(state, forcing), []
    except SolverError as error:
        return taken(error, solver, state, forcing)


def taken(
    error: SolverError,
    solver: Solver,
    state: State,
    forcing: Forcing | None,
    note: Note | None = None,
) -> tuple[State, list[Failure]]:
    """What an error leaves of a batch: answers, NaN where it failed, and why.

    Where it does not say which states failed, it is noted, and each state is asked about alone.
    """
    if isinstance(error, TooManyFailuresError):
        raise error
    if error.answers is not None and _tells(error, state):
        return error.answers.to(state), list(error.failures)
    if len(state) == 1:
        known = error.failures[0] if error.failures else Failure(0, str(error))
        return torch.full_like(state, torch.nan), [replace(known, row=0)]
    if note:
        note([Failure(0, str(error))])
    return one_by_one(solver, state, forcing)


def one_by_one(
    solver: Solver, state: State, forcing: Forcing | None
) -> tuple[State, list[Failure]]:
    """What a solver answers when asked about each state alone; see `answered`."""
    parts = [
        answered(solver, state[i : i + 1], None if forcing is None else forcing[i : i + 1])
        for i in range(len(state))
    ]
    failures = [replace(f, row=i) for i, (_, found) in enumerate(parts) for f in found]
    return torch.cat([answer for answer, _ in parts]), failures


def error_of(failures: Sequence[Failure], answers: State) -> SolverError:
    """What to raise where some states of a batch failed."""
    message = f"{len(failures)} of {len(answers)} states failed; the first: "
    return SolverError(message + _described(failures[0]), failures, answers)


def _tells(error: SolverError, state: State) -> bool:
    """Whether an error says which states failed, and what the others answered."""
    return bool(error.failures) and error.answers is not None and error.answers.shape == state.shape


def failures_of(solver: object) -> Counter[str]:
    """Failed steps by reason, as far as a solver has counted any."""
    counts = solver.counts() if isinstance(solver, Tally) else Counter[str]()
    found = {name: n for name, n in counts.items() if name.startswith(_FAILED)}
    return Counter({name.removeprefix(_FAILED): n for name, n in found.items()})


def _finite(values: Tensor) -> bool:
    # One pass, no mask; a sum that overflows is looked at closely afterwards.
    return math.isfinite(float(values.detach().sum())) or bool(values.isfinite().all())


def _finite_rows(state: Tensor, forcing: Tensor | None = None) -> Bool[Tensor, " batch"]:
    rows = torch.ones(len(state), dtype=torch.bool, device=state.device)
    for values in (state, forcing):
        if values is not None and not _finite(values):
            rows &= values.flatten(1).isfinite().all(dim=1)
    return rows


def _take(forcing: Forcing | None, rows: Tensor) -> Forcing | None:
    return None if forcing is None else forcing[rows]


def _described(failure: Failure) -> str:
    kept = f", kept in {failure.folder}" if failure.folder else ""
    log = f"; its log ends: {' | '.join(failure.log.splitlines())}" if failure.log else ""
    return f"{failure.reason}{kept}{log}"


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
