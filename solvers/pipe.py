"""A program that stays alive: states go to its stdin, answers come from its stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from zopde.contracts import Forcing, State
from zopde.grid import Grid, as_grid
from zopde.solvers.resident import Order, ResidentProgram
from zopde.solvers.runs import command_line, filled


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
        self.grid, base = as_grid(grid), Path(home).resolve()
        self._programs = ResidentProgram(
            [filled(word, {"home": str(base)}) for word in command_line(command, base)],
            self.grid,
            order,
            concurrency,
            timeout,
            start_timeout,
            str(base / folder),
            environment,
        )

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, channel, *space) by dt; see `zopde.Solver.step`."""
        return self._programs.step(state, forcing)
