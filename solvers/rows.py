"""A batch for a code that takes one state: several at once, and what fails is told apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from zopde.contracts import Forcing, State
from zopde.errors import NOT_FINITE, Failure, MistakeError, SolverError, StepError
from zopde.grid import Grid, check_forcing, check_state

_PAUSE = 0.02  # seconds
Ask: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]


def own_copy(values: Tensor) -> Tensor:
    """float64, contiguous, on the CPU, and nobody else's: foreign code may write into it."""
    return values.detach().to("cpu", torch.float64, copy=True).contiguous()


def reals(answer: object) -> Tensor:
    """What a foreign code answered, float64: an array of floating-point numbers, or lists of them.

    A masked cell is NaN: the number under a mask means nothing.

    Raises:
        MistakeError: If the numbers are of another type: whole, true or false, complex.
    """
    # It sees the masks of a list of masked arrays, too.
    values: np.ma.MaskedArray[Any, Any] = np.ma.asarray(answer)
    if values.dtype.kind != "f":
        got = f"{type(answer).__name__} of {values.dtype}"
        raise MistakeError(f"answered something else than floating-point numbers: {got}")
    plain = np.ma.filled(values.astype(np.float64), np.nan)
    return torch.from_numpy(np.array(plain, order="C"))


def step_rows(
    grid: Grid,
    state: State,
    forcing: Forcing | None,
    ask: Ask,
    at_once: int = 1,
    prepared: Callable[[Tensor], Tensor] = own_copy,
    stop: Callable[[], None] | None = None,
) -> State:
    """Ask about every state of a batch, as `prepared` makes it, on its own, by several threads.

    `ask` raises `StepError` where it cannot; `stop` makes whoever asks now fail at once. After
    Ctrl-C it is called until nobody asks; where there is none, nobody waits for what still runs.

    Raises:
        SolverError: With the states that failed, and the answers of the others.
    """
    check_state(grid, state)
    check_forcing(grid, forcing, len(state))
    states = prepared(state)
    forcings = None if forcing is None else prepared(forcing)

    def answer_to(row: int) -> Tensor | StepError:
        try:
            if not states[row].isfinite().all():
                raise StepError("the state to start from is not finite")
            return ask(states[row], None if forcings is None else forcings[row])
        except StepError as error:
            return error

    if at_once == 1:
        return gathered(grid, state, map(answer_to, range(len(state))))
    threads = ThreadPoolExecutor(at_once)
    futures = [threads.submit(answer_to, row) for row in range(len(state))]
    try:
        return gathered(grid, state, [future.result() for future in futures])
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        while stop is not None and not all(future.done() for future in futures):
            stop()
            time.sleep(_PAUSE)


def checked(grid: Grid, answer: Tensor, state: Tensor) -> Tensor:
    """An answer like its state; a `StepError` if it has another shape, or is not finite.

    Outside of the grid's mask it is 0, whatever the code wrote there.
    """
    if answer.shape != state.shape:
        shapes = f"{tuple(answer.shape)}, expected {tuple(state.shape)}"
        raise StepError(f"answered an array of shape {shapes}")
    answer = grid.filled(answer.detach().to(state))
    bad = int((~answer.isfinite()).sum())
    if bad:
        raise StepError(f"{NOT_FINITE}: {bad:,} of {answer.numel():,} values are NaN or infinite")
    return answer


def gathered(grid: Grid, state: State, answers: Iterable[Tensor | StepError]) -> State:
    """The batch of all answers; a `SolverError` if some are errors, or not `checked`."""
    together = torch.full_like(state, torch.nan)
    failures = []
    for row, answer in enumerate(answers):
        try:
            if isinstance(answer, StepError):
                raise answer
            together[row] = checked(grid, answer, state[row])
        except StepError as error:
            failures.append(error.at(row))
    if failures:
        raise SolverError(failure_message(failures, len(state)), failures, together)
    return together


def failure_message(failures: Sequence[Failure], batch: int, what: str = "states") -> str:
    """How many of a batch failed, and all that is known of the first."""
    first = failures[0]
    return f"{len(failures)} of {batch} {what} failed; state {first.row}: {first.described()}"
