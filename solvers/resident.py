"""One process that stays alive and answers, state after state, over stdin and stdout.

An exchange, all numbers little-endian:

    to the process      int32 n, then n float64: the state, then the forcing if there is one
    from the process    int32 m, then m float64: the next state; or m = 0, "not this one"

It repeats until stdin ends; then the process ends. What it writes to stderr is its log.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import final

from zopde.solvers.rows import RowError

_NUMBER = 8  # bytes
_LOG_BYTES = 4096
_LOG_LINES = 5
_GRACE = 1.0  # seconds that a killed process may take to vanish


class DeclinedError(RowError):
    """The process has no answer to this state, and goes on."""


@final
class Resident:
    """A running process.

    Args:
        command: The program and its arguments.
        folder: Where it runs; None: where this process does.
        environment: Variables added to this process's own.

    Raises:
        OSError: If it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], folder: str | None, environment: Mapping[str, str] | None
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            # A group of its own: Ctrl-C is ours to pass on, and its children end with it.
            start_new_session=True,
        )
        streams = self._process.stdin, self._process.stdout, self._process.stderr
        self._streams = [stream for stream in streams if stream is not None]
        self._in, self._out, self._err = (stream.fileno() for stream in self._streams)
        for stream in self._streams:
            os.set_blocking(stream.fileno(), False)
        self._log = bytearray()

    def died(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def ask(self, sent: bytes, count: int, timeout: float) -> bytes:
        """One exchange.

        Args:
            sent: float64 values.
            count: How many an answer must have.
            timeout: Seconds for all of it.

        Raises:
            DeclinedError: If the process says "not this one".
            RowError: If it dies, hangs or speaks otherwise; it is of no use then.
        """
        deadline = time.monotonic() + timeout
        self._log.clear()  # what it said about other states explains nothing
        if any(event & select.POLLIN for _, event in self._poll(self._out).poll(0)):
            self._hear()
            raise self._failed("wrote to stdout without being asked; only answers belong there")
        try:
            request = struct.pack("<i", len(sent) // _NUMBER) + sent
            (found,) = struct.unpack("<i", self._exchange(request, 4, deadline))
            if found == 0:
                self._hear()
                raise DeclinedError("the process answered: not this state", log=self._last_lines())
            if found != count:
                raise self._failed(
                    f"announced {found} numbers, expected {count}; only answers belong on stdout"
                )
            return self._exchange(b"", _NUMBER * count, deadline)
        except TimeoutError:
            raise self._failed(f"no answer within {timeout:g} s") from None
        except (EOFError, BrokenPipeError):
            raise self._failed(self._epitaph()) from None

    def hang_up(self) -> None:
        """Close its stdin: a process that keeps the protocol ends."""
        self._streams[0].close()

    def kill(self) -> None:
        """End it and its children at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, grace: float = 0.0) -> None:
        """End it, `grace` seconds from now at the latest, and let go of its streams."""
        for patience in (grace, _GRACE):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
            self.kill()
        for stream in self._streams:
            stream.close()

    def _exchange(self, outgoing: bytes, wanted: int, deadline: float) -> bytes:
        """Write and read at once: neither side may wait for the other to empty its pipe."""
        rest, arrived = memoryview(outgoing), bytearray()
        ready_for = self._poll(self._out, self._err)
        if rest:
            ready_for.register(self._in, select.POLLOUT)
        while rest or len(arrived) < wanted:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            ready = dict(ready_for.poll(1000 * left))
            if self._err in ready and not self._hear():
                ready_for.unregister(self._err)
            if self._in in ready:
                rest = rest[os.write(self._in, rest) :]
                if not rest:
                    ready_for.unregister(self._in)
            if self._out in ready:
                piece = os.read(self._out, wanted - len(arrived))
                if not piece:
                    raise EOFError
                arrived += piece
                if len(arrived) == wanted:
                    ready_for.unregister(self._out)
        return bytes(arrived)

    @staticmethod
    def _poll(*streams: int) -> select.poll:
        poll = select.poll()
        for stream in streams:
            poll.register(stream, select.POLLIN)
        return poll

    def _hear(self) -> bool:
        """Read what is on stderr; False at its end."""
        with suppress(BlockingIOError):
            while piece := os.read(self._err, 65536):
                self._log = (self._log + piece)[-_LOG_BYTES:]
            return False
        return True

    def _last_lines(self) -> str:
        lines = self._log.decode(errors="replace").splitlines()
        return "\n".join([line.strip() for line in lines if line.strip()][-_LOG_LINES:])

    def _epitaph(self) -> str:
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return "the process closed its stdin or stdout"
        if code < 0:
            return f"the process was killed by signal {-code}: {signal.strsignal(-code)}"
        return f"the process ended with exit code {code}"

    def _failed(self, reason: str) -> RowError:
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self._hear()
        return RowError(reason, log=self._last_lines())
