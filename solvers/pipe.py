"""A program that stays alive: states go to its stdin, answers come from its stdout."""

from __future__ import annotations

import signal
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from zopde.child import Child, ChildPool, EndedError, ending
from zopde.contracts import Forcing, State
from zopde.errors import StepError
from zopde.grid import Grid, as_grid
from zopde.solvers.rows import step_rows
from zopde.solvers.runs import command_line, filled
from zopde.validate import MOST_SECONDS, check_choice, check_count, check_positive

Order = Literal["C", "F"]
_NUMBER = np.dtype("<f8")


@final
class Pipe:
    """A program whose start is slow, kept running: binary states over stdin and stdout.

        int32 n, float64[n] (state, then forcing) -> stdin; stdout -> int32 m, float64[m] (state)

    All little-endian. One such exchange per state, until stdin ends; then the program ends. It
    must flush its stdout after an answer. An m of 0 says "not this state" and the program goes
    on. Everything else that it has to say belongs on stderr, whose last lines are kept for
    the failure. A state and a forcing lie as `order` says: "C", the last space dimension
    fastest, which Fortran sees as u(x, y, channel); or "F", the channel fastest, u(channel, y, x).

    A program that dies, answers something else or nothing within `timeout` is ended with its
    children and started anew for the next state; the states it failed are told apart in one
    `SolverError`. States are asked about `concurrency` at a time; the answers do not depend
    on how many. Pickled, it starts processes of its own wherever it wakes. They end with this
    process; where that is killed, as soon as they read their stdin again.

    Args:
        command: The arguments, the program first. {home} stands for `home`, where a relative path
            of the program is looked for.
        grid: A `Grid`, or a table of its arguments.
        order: "C" or "F".
        concurrency: How many run side by side, >= 1; give each its own core.
        timeout: Seconds for one answer, > 0.
        start_timeout: Seconds more for the first answer of a fresh process, > 0.
        environment: Variables added to this process's own.
        folder: Where the program runs; relative to `home`.
        home: Folder that relative paths start from; "": the current one.

    Raises:
        InputError: If the program is not there, or a number is not positive.
    """

    def __init__(
        self,
        command: Sequence[str],
        grid: Grid | Mapping[str, Any],
        order: Order = "C",
        concurrency: int = 1,
        timeout: float = 60.0,
        start_timeout: float = 60.0,
        environment: Mapping[str, str] | None = None,
        folder: str = "",
        home: str = "",
    ) -> None:
        check_count("concurrency", concurrency)
        check_positive("timeout", timeout, MOST_SECONDS)
        check_positive("start_timeout", start_timeout, MOST_SECONDS)
        check_choice("order", order, ("C", "F"))
        self.grid, base = as_grid(grid, home), Path(home).resolve()
        self._order, self._concurrency = order, concurrency
        self._timeout, self._start_timeout = timeout, start_timeout
        words = [filled(word, {"home": str(base)}) for word in command_line(command, base)]
        start = partial(Child, words, str(base / folder), environment)
        self._pool = ChildPool(start, concurrency)

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, channel, *space) by dt; see `zopde.Solver.step`."""
        stop = self._pool.kill
        return step_rows(self.grid, state, forcing, self._ask, self._concurrency, stop=stop)

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
                (code,) = error.args
                how = ending(code)
                if code is not None and code < 0:
                    how = f"was killed by signal {-code}: {signal.strsignal(-code)}"
                raise child.failed(f"the process {how}") from None
            log = "" if answer else child.last_lines()
        if not answer:
            raise StepError("the process answered: not this state", log=log)
        return state_of(answer, self._order, self.grid.state_shape)


def numbers_of(order: Order, state: Tensor, forcing: Tensor | None = None) -> bytes:
    """The state's numbers, then the forcing's: float64, little-endian, as `order` says."""
    parts = (state,) if forcing is None else (state, forcing)
    return b"".join(part.numpy().astype(_NUMBER).tobytes(order) for part in parts)


def state_of(answer: bytes | bytearray, order: Order, shape: tuple[int, ...]) -> Tensor:
    """The state (channel, *space) whose numbers are these."""
    values = np.frombuffer(answer, _NUMBER).reshape(shape, order=order)
    return torch.from_numpy(values.astype(np.float64, order="C"))
