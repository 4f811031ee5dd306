"""A program that stays alive: states go to its stdin, answers come from its stdout."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from torch import Tensor

from zopde.checks import check_count, check_positive
from zopde.errors import InputError
from zopde.grid import Grid, as_grid
from zopde.protocols import Forcing, State
from zopde.solvers.resident_pool import ResidentPool
from zopde.solvers.rows import step_rows
from zopde.solvers.values import Order, Values


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
    `SolverError`. States are asked about `processes` at a time; the answers do not depend
    on how many. Pickled, it starts processes of its own wherever it wakes.

    Args:
        grid: The grid of a state, or a table of `zopde.Grid`'s arguments.
        command: Program and arguments, as a list or as one line; no shell reads it.
        order: "C" or "F".
        processes: How many run side by side, >= 1.
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
        grid: Grid | Mapping[str, Any],
        command: str | Sequence[str],
        order: Order = "C",
        processes: int = 1,
        timeout: float = 60.0,
        start_timeout: float = 60.0,
        environment: Mapping[str, str] | None = None,
        folder: str = "",
        home: str = "",
    ) -> None:
        check_count("processes", processes)
        check_positive("timeout", timeout)
        check_positive("start_timeout", start_timeout)
        self._grid = as_grid(grid)
        self._values = Values(self._grid, order)
        self._processes = processes
        words = shlex.split(command) if isinstance(command, str) else list(command)
        self._pool = ResidentPool(
            [_program(words, Path(home)), *words[1:]],
            processes,
            timeout,
            start_timeout,
            str(Path(home, folder).resolve()),
            environment,
        )

    @property
    def grid(self) -> Grid:
        """As declared."""
        return self._grid

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, channel, *space) by dt; see `zopde.Solver.step`."""
        try:
            return step_rows(self._grid, state, forcing, self._ask, self._processes)
        except (KeyboardInterrupt, SystemExit):  # other threads may still wait for answers
            self._pool.kill()
            raise

    def _ask(self, state: Tensor, forcing: Tensor | None) -> Tensor:
        return self._values.read(self._pool.ask(self._values.sent(state, forcing), state.numel()))


def _program(words: Sequence[str], home: Path) -> str:
    if not words:
        raise InputError("command", got="nothing", expected="a program and its arguments")
    name = words[0]
    path = str((home / name).resolve()) if "/" in name else name
    if shutil.which(path) is None:
        raise InputError("command", got=repr(path), expected="a program that can be run")
    return path
