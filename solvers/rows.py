"""A batch for a code that takes one state: several at once, and what fails is told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import torch
from torch import Tensor

from zopde.contracts import Forcing, State
from zopde.errors import Failure, SolverError
from zopde.grid import Grid, check_forcing, check_state

Ask: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]


class RowError(Exception):
    """One state could not be advanced.

    Args:
        reason: What happened, in one line.
        folder: Where the run's files are kept; "" where there are none.
        log: The last lines that the run wrote; "" where there are none.
    """

    def __init__(self, reason: str, folder: str = "", log: str = "") -> None:
        super().__init__(reason)
        self.reason, self.folder, self.log = reason, folder, log


def own_copy(values: Tensor) -> Tensor:
    """float64, contiguous, on the CPU, and nobody else's: foreign code may write into it."""
    return values.detach().to("cpu", torch.float64, copy=True).contiguous()


def step_rows(
    grid: Grid,
    state: State,
    forcing: Forcing | None,
    ask: Ask,
    at_once: int = 1,
    prepared: Callable[[Tensor], Tensor] = own_copy,
) -> State:
    """Ask about every state of a batch on its own.

    Args:
        grid: The solver's.
        state: (batch, channel, *space).
        forcing: (batch, forcing_channel, *space), or None.
        ask: One state and its forcing, as `prepared` made them -> the next state. It raises
            `RowError` where it cannot.
        at_once: How many threads ask side by side, >= 1.
        prepared: What is done to a batch first.

    Returns:
        The next states, in the dtype and on the device of `state`.

    Raises:
        InputError: If `state` or `forcing` is not the grid's.
        SolverError: If states failed, or they or their answers are not finite, or an answer has
            another shape; it holds the answers of the others.
    """
    check_state(grid, state)
    check_forcing(grid, forcing, len(state))
    states = prepared(state)
    forcings = None if forcing is None else prepared(forcing)

    def one(row: int) -> Tensor | Failure:
        try:
            if not states[row].isfinite().all():
                raise RowError("the state to start from is not finite")
            answer = ask(states[row], None if forcings is None else forcings[row])
            return checked(answer, state[row])
        except RowError as error:
            return Failure(row, error.reason, error.folder, error.log)

    return gathered(state, _several(one, range(len(state)), at_once))


def checked(answer: Tensor, state: Tensor) -> Tensor:
    """An answer in the dtype and on the device of its state.

    Raises:
        RowError: If it has another shape, or is not finite.
    """
    if answer.shape != state.shape:
        shapes = f"{tuple(answer.shape)}, expected {tuple(state.shape)}"
        raise RowError(f"answered an array of shape {shapes}")
    answer = answer.detach().to(state)
    bad = int((~answer.isfinite()).sum())
    if bad:
        raise RowError(f"{bad:,} of {answer.numel():,} values of the answer are NaN or infinite")
    return answer


def gathered(state: State, answers: Iterable[Tensor | Failure]) -> State:
    """The batch of all answers.

    Raises:
        SolverError: If some are failures.
    """
    together = torch.full_like(state, torch.nan)
    failures = []
    for row, answer in enumerate(answers):
        if isinstance(answer, Failure):
            failures.append(answer)
        else:
            together[row] = answer
    if failures:
        raise SolverError(said(failures, len(state)), failures, together)
    return together


def _several(
    one: Callable[[int], Tensor | Failure], rows: Iterable[int], at_once: int
) -> list[Tensor | Failure]:
    if at_once == 1:
        return [one(row) for row in rows]
    threads = ThreadPoolExecutor(at_once)
    try:
        return list(threads.map(one, rows))
    finally:  # after Ctrl-C, nobody waits for what still runs
        threads.shutdown(wait=False, cancel_futures=True)


def said(failures: Sequence[Failure], batch: int, what: str = "states") -> str:
    """How many of a batch failed, and all that is known of the first."""
    first = failures[0]
    text = f"{len(failures)} of {batch} {what} failed; state {first.row}: {first.reason}"
    if first.folder:
        text += f"; its folder is {first.folder}"
    if first.log:
        text += f"; its log ends: {' | '.join(first.log.splitlines())}"
    return text
