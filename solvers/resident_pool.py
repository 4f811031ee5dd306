"""Several resident processes side by side: lent, replaced when they fail, ended for certain."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any, final

from zopde.errors import SolverError
from zopde.solvers.resident import DeclinedError, Resident

_GRACE = 1.0  # seconds that a process may take to end by itself


@final
class ResidentPool:
    """Several such processes of one command; started when needed, replaced when they fail.

    It pickles: another process starts its own. They end with it, in whatever way it ends.

    Args:
        command: The program and its arguments.
        processes: How many may run side by side, >= 1.
        timeout: Seconds for one answer.
        start_timeout: Seconds more for the first answer of a fresh process.
        folder: Where they run; None: where this process does.
        environment: Variables added to this process's own.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int = 1,
        timeout: float = 60.0,
        start_timeout: float = 60.0,
        folder: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = (command, processes, timeout, start_timeout, folder, environment)
        self._timeout, self._start_timeout = timeout, start_timeout
        self._idle: SimpleQueue[Resident | None] = SimpleQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._running: set[Resident] = set()
        weakref.finalize(self, _end, self._running)

    def __reduce__(self) -> tuple[type[ResidentPool], tuple[Any, ...]]:
        return ResidentPool, self._settings

    def ask(self, sent: bytes, count: int) -> bytes:
        """Let a free process answer; waits for one.

        Args:
            sent: float64 values, little-endian.
            count: How many an answer must have.

        Raises:
            RowError: If the process dies, hangs, declines or speaks otherwise; the next one
                who asks gets a fresh one.
            SolverError: If it cannot be started.
        """
        resident = self._idle.get()
        fresh = resident is None or resident.died()
        try:
            if resident is None or fresh:
                self._forget(resident)
                resident = None  # where the next line raises
                resident = self._started()
            answer = resident.ask(sent, count, self._timeout + fresh * self._start_timeout)
        except DeclinedError:
            self._idle.put(resident)
            raise
        except BaseException:
            self._forget(resident)
            self._idle.put(None)
            raise
        self._idle.put(resident)
        return answer

    def kill(self) -> None:
        """End all of them, in the middle of what they do; who is asking gets a `RowError`."""
        for resident in list(self._running):
            resident.kill()

    def _started(self) -> Resident:
        command, _, _, _, folder, environment = self._settings
        try:
            resident = Resident(command, folder, environment)
        except OSError as error:
            raise SolverError(f"cannot start {command[0]}: {error.strerror}") from error
        self._running.add(resident)
        return resident

    def _forget(self, resident: Resident | None) -> None:
        if resident is not None:
            self._running.discard(resident)
            resident.close()


def _end(running: set[Resident]) -> None:
    # All are told first, so that they end side by side.
    for resident in running:
        resident.hang_up()
    while running:
        running.pop().close(_GRACE)
