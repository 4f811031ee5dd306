"""A program in a process group of its own: bytes in time, an end for certain, its last lines."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, final

from zopde.errors import StepError

_LOG_BYTES, _LOG_LINES = 2**16, 5
# A line of a backtrace, which says where and not why
_FRAME = re.compile(r"#\d+\s|at \.\./|0x[0-9a-f]+|.*\berror\b.* backtrace|backtrace", re.I)
# A line that says why; one that tells the size of an error does not
_WHY = re.compile(r"\b(error|fatal|severe|fault)\b(?!\W*\d)", re.I)
_VANISH = 1.0  # seconds that a process may take to end by itself, and a killed one to vanish
_LONGEST_SLEEP = 0.002  # seconds between two looks at a process that may have ended


class EndedError(Exception):
    """A child ended in the middle of an exchange; its argument is what `Child.ended` returned."""


@final
class Child:
    """Runs a program in a process group of its own; what it starts ends with it.

    Ctrl-C reaches this process alone, which decides what becomes of the child. With `output`, a
    file descriptor, all that it prints goes there, and it has no input; without, `exchange`
    uses its stdin and stdout, and its stderr is its log.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        output: int | None = None,
    ) -> None:
        streams: dict[str, int] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        if output is not None:
            streams = {"stdout": output, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        variables = {**os.environ, **(environment or {})}
        options: dict[str, Any] = {"bufsize": 0, "start_new_session": True, **streams}
        try:
            self._process = subprocess.Popen(command, cwd=folder, env=variables, **options)
        except OSError as error:
            raise StepError(f"{command[0]} does not start: {error.strerror}") from error
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._pipes = [pipe for pipe in pipes if pipe is not None]
        self._early = select.poll()
        for stream in self._pipes:
            os.set_blocking(stream.fileno(), False)
        if self._pipes:
            self._early.register(self._pipes[1], select.POLLIN)
        self._reaping = threading.Lock()
        self._log = bytearray()
        self.fresh = True  # nothing was exchanged yet

    def exchange(
        self, sent: bytes, head: int, length: Callable[[bytes], int], timeout: float | None
    ) -> bytes:
        """Send a message; receive what follows the `head` bytes from which `length` tells its size.

        Raises:
            StepError: If no answer came in `timeout` seconds, or one came before the message.
            EndedError: If the child ended or closed its pipes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._log.clear()  # what it said about other states explains nothing
        if any(event & select.POLLIN for _, event in self._early.poll(0)):
            raise self.failed("wrote to stdout without being asked; only answers belong there")
        try:
            start = self._transfer(sent, head, deadline)
            answer = self._transfer(b"", length(start), deadline)
        except TimeoutError:
            raise self.failed(f"no answer within {timeout:g} s") from None
        except (EOFError, BrokenPipeError):
            raise EndedError(self.ended(_VANISH)) from None
        self.fresh = False
        return answer

    def failed(self, reason: str) -> StepError:
        """End the child; the error to raise, with the last lines of its log."""
        self.close()
        return StepError(reason, log=self.last_lines())

    def last_lines(self) -> str:
        """The end of what it wrote to stderr since the last exchange began."""
        self._read_log()
        return last_lines(self._log)

    def ended(self, seconds: float = 0.0) -> int | None:
        """Its exit code, or minus the signal that killed it; None if it runs for these seconds."""
        began = time.monotonic()
        while True:
            with self._reaping:
                if self._process.returncode is not None:
                    return self._process.returncode
                # Not reaped: until all that it started is killed, its group keeps its number.
                flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
                try:
                    found = os.waitid(os.P_PID, self._process.pid, flags)
                except ChildProcessError:  # another process's after a fork, or SIGCHLD is ignored
                    return self._process.wait()
            if found is not None:
                exited = found.si_code == os.CLD_EXITED
                return found.si_status if exited else -found.si_status
            waited = time.monotonic() - began
            if waited >= seconds:
                return None
            time.sleep(min(_LONGEST_SLEEP, 1e-4 + waited / 16, seconds - waited))

    def hang_up(self) -> None:
        """Ask it to end: close its stdin; where it has none, SIGTERM to the group."""
        if self._pipes:
            self._pipes[0].close()
        else:  # mpirun then takes its ranks along
            self.kill(signal.SIGTERM)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it and all that it started, at once."""
        with self._reaping:
            if self._process.returncode is None:  # else the number may be another group's
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Kill it and let go of it."""
        self.kill()
        with self._reaping, suppress(subprocess.TimeoutExpired):
            self._process.wait(_VANISH)
        self._read_log()
        for pipe in self._pipes:
            pipe.close()

    def _transfer(self, outgoing: bytes, wanted: int, deadline: float | None) -> bytes:
        """Write and read at once: neither side may wait for the other to empty its pipe."""
        to_child, from_child, log = (pipe.fileno() for pipe in self._pipes)
        rest, arrived, logging = memoryview(outgoing), bytearray(), True
        while rest or len(arrived) < wanted:
            poll = select.poll()
            if rest:
                poll.register(to_child, select.POLLOUT)
            if len(arrived) < wanted:
                poll.register(from_child, select.POLLIN)
            if logging:
                poll.register(log, select.POLLIN)
            left = None if deadline is None else max(0.0, 1000 * (deadline - time.monotonic()))
            ready = dict(poll.poll(left))
            if not ready:
                raise TimeoutError
            if log in ready:
                logging = self._read_log()
            if to_child in ready:
                rest = rest[os.write(to_child, rest) :]
            if from_child in ready:
                piece = os.read(from_child, wanted - len(arrived))
                if not piece:
                    raise EOFError
                arrived += piece
        return bytes(arrived)

    def _read_log(self) -> bool:
        """Read what is on stderr; False at its end."""
        if not self._pipes or self._pipes[2].closed:
            return False
        with suppress(BlockingIOError):
            while piece := os.read(self._pipes[2].fileno(), 65536):
                self._log = (self._log + piece)[-_LOG_BYTES:]
            return False
        return True


def end(children: Collection[Child], grace: float) -> None:
    """Tell all to end, side by side; kill what still runs `grace` seconds later."""
    told = list(children)
    for child in told:
        child.hang_up()
    until = time.monotonic() + grace
    for child in told:
        child.ended(until - time.monotonic())
        child.close()


@final
class ChildPool:
    """Lends children of one kind to threads; starts them when needed, replaces those that fail.

    It pickles, if `start` does: another process starts its own. The children end with the pool,
    and with this process.
    """

    def __init__(self, start: Callable[[], Child], count: int = 1) -> None:
        self._start, self._count = start, count
        self._idle: SimpleQueue[Child | None] = SimpleQueue()
        for _ in range(count):
            self._idle.put(None)
        self._running: set[Child] = set()
        weakref.finalize(self, end, self._running, _VANISH)

    def __reduce__(self) -> tuple[type[ChildPool], tuple[Any, ...]]:
        return ChildPool, (self._start, self._count)

    @contextmanager
    def lent(self) -> Iterator[Child]:
        """A child for the caller alone; waits for one. An error that passes here ends it."""
        child = self._idle.get()
        try:
            if child is None or child.ended() is not None:
                self._let_go(child)
                child = self._start()
                self._running.add(child)
            yield child
        except BaseException:
            self._let_go(child)
            self._idle.put(None)
            raise
        self._idle.put(child)

    def kill(self) -> None:
        """End all of them, in the middle of what they do; an exchange then fails."""
        for child in list(self._running):
            child.kill()

    def _let_go(self, child: Child | None) -> None:
        if child is not None:
            self._running.discard(child)
            child.close()


def ending(code: int | None) -> str:
    """How a process ended, by what `Child.ended` returned."""
    if code is None:
        return "closed its pipes"
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def last_lines(log: bytes | bytearray, pattern: str = "") -> str:
    """The last lines of a log before its backtrace; those from where the pattern matches.

    Without a pattern, those from the last line that tells of an error.
    """
    lines = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()]
    for i, line in enumerate(lines if pattern else ()):
        if re.search(pattern, line):
            return "\n".join(lines[i : i + _LOG_LINES])
    told = [line for line in lines if not _FRAME.match(line)] or lines
    last = max((i for i, line in enumerate(told) if _WHY.search(line)), default=len(told))
    first = min(last, max(0, len(told) - _LOG_LINES))
    return "\n".join(told[first : first + _LOG_LINES])
