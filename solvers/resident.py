"""Programs that stay alive and answer, state after state, over stdin and stdout; see `Pipe`."""

from __future__ import annotations

import signal
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from zopde.child import Child, ChildPool, EndedError, ending
from zopde.contracts import Forcing, State
from zopde.errors import StepError
from zopde.grid import Grid
from zopde.solvers.rows import step_rows
from zopde.validate import check_choice, check_count, check_positive

Order = Literal["C", "F"]
_NUMBER = np.dtype("<f8")


def numbers_of(order: Order, state: Tensor, forcing: Tensor | None = None) -> bytes:
    """The state's numbers, then the forcing's: float64, little-endian, as `order` says."""
    parts = (state,) if forcing is None else (state, forcing)
    return b"".join(part.numpy().astype(_NUMBER).tobytes(order) for part in parts)


def state_of(answer: bytes | bytearray, order: Order, shape: tuple[int, ...]) -> Tensor:
    """The state (channel, *space) whose numbers are these."""
    values = np.frombuffer(answer, _NUMBER).reshape(shape, order=order)
    return torch.from_numpy(values.astype(np.float64, order="C"))


@final
class ResidentProgram:
    """Steps states by copies of one program that stays alive; each is replaced when it fails.

    It pickles: another process starts copies of its own.

    Args:
        command: The program and its arguments.
        grid: What a state looks like.
        order: "C": its last space dimension is the fastest; "F": its channel is.
        concurrency: How many copies run side by side, >= 1.
        timeout: Seconds for one answer, > 0.
        start_timeout: Seconds more for the first answer of a fresh process, > 0.
        folder: Where they run; None: where this process does.
        environment: Variables added to this process's own.

    Raises:
        InputError: If a number is not positive, or the order neither of these.
    """

    def __init__(
        self,
        command: Sequence[str],
        grid: Grid,
        order: Order = "C",
        concurrency: int = 1,
        timeout: float = 60.0,
        start_timeout: float = 60.0,
        folder: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        check_count("concurrency", concurrency)
        check_positive("timeout", timeout)
        check_positive("start_timeout", start_timeout)
        check_choice("order", order, ("C", "F"))
        self._grid, self._order, self._concurrency = grid, order, concurrency
        self._timeout, self._start_timeout = timeout, start_timeout
        self._pool = ChildPool(partial(Child, command, folder, environment), concurrency)

    def step(self, state: State, forcing: Forcing | None) -> State:
        """Advance (batch, channel, *space) by dt; see `zopde.Solver.step`."""
        return step_rows(
            self._grid, state, forcing, self._ask, self._concurrency, stop=self._pool.kill
        )

    def _ask(self, state: Tensor, forcing: Tensor | None) -> Tensor:
        numbers, count = numbers_of(self._order, state, forcing), state.numel()
        sent = struct.pack("<i", len(numbers) // _NUMBER.itemsize) + numbers
        with self._pool.lent() as child:

            def length(head: bytes) -> int:
                (announced,) = struct.unpack("<i", head)
                if announced not in (0, count):
                    told = f"announced {announced} numbers, expected {count}"
                    raise child.failed(f"{told}; only answers belong on stdout")
                return _NUMBER.itemsize * int(announced)

            timeout = self._timeout + child.fresh * self._start_timeout
            try:
                answer = child.exchange(sent, 4, length, timeout)
            except EndedError as error:
                raise child.failed(_how(*error.args)) from None
            log = "" if answer else child.last_lines()
        if not answer:
            raise StepError("the process answered: not this state", log=log)
        return state_of(answer, self._order, self._grid.state_shape)


def _how(code: int | None) -> str:
    if code is None:
        return "the process closed its stdin or stdout"
    if code < 0:
        return f"the process was killed by signal {-code}: {signal.strsignal(-code)}"
    return f"the process ended with {ending(code)}"
