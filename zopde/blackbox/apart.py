"""A solver in a process of its own, which may crash and hang as it likes.

The child's side of a solver apart: read a state, step it, write the answer.
"""

from __future__ import annotations

import copy
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from typing import IO, Any, final

import torch
from torch import Tensor

from zopde.blackbox.failures import error_of
from zopde.blackbox.wrapper import Wrapper
from zopde.contracts import Forcing, Seeded, Solver, State, seeded
from zopde.errors import Failure, InputError, SolverError, first_line
from zopde.memory import keep_freed_memory
from zopde.plugins import import_user_files, user_files
from zopde.validate import check_positive

LENGTH = 8  # bytes that say how long a message is


def serve() -> None:
    """Answer until the pipe closes. What the solver prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        path, files = pickle.loads(read_message(sys.stdin.buffer))
        sys.path[:] = path
        import_user_files(files)
        solver: Solver = pickle.loads(read_message(sys.stdin.buffer))
    except Exception as error:  # the parent says it
        write_message(replies, pickle.dumps(("error", f"{type(error).__name__}: {error}")))
        return
    write_message(replies, pickle.dumps(("ready", None)))
    while data := read_message(sys.stdin.buffer):
        write_message(replies, pickle.dumps(_reply(solver, data)))


def _reply(solver: Solver, data: bytes) -> tuple[str, object]:
    state, forcing, seed = pickle.loads(data)
    try:
        with torch.no_grad():
            asked = solver if seed < 0 else seeded(solver, seed)
            return "answer", asked.step(state, forcing)
    except SolverError as error:
        return "error", str(error)
    except Exception as error:  # it is the user's code and may raise anything
        return "error", f"step raised {type(error).__name__}: {first_line(error)}"


def read_message(file: IO[bytes]) -> bytes:
    """The next message; nothing where the pipe is closed."""
    return file.read(int.from_bytes(file.read(LENGTH), "little"))


def write_message(file: IO[bytes], data: bytes) -> None:
    """Its length, then itself."""
    file.write(len(data).to_bytes(LENGTH, "little") + data)
    file.flush()


_START, _END = 300.0, 5.0  # seconds that a child may take to import everything, and to vanish


@final
class Apart(Wrapper):
    """Runs a solver in a child process; a crash or a hang is a failed step.

    The child starts at the first step, holds a copy of the solver, and is replaced when it dies.
    It works with one torch thread on the CPU and writes to stderr alone. States are sent one at
    a time, so that one that crashes the solver takes no other along.

    Args:
        solver: The solver, which pickles; its class lives in a module or a solver file.
        timeout: Seconds that one state may take, > 0; None waits for ever.

    Raises:
        InputError: If `timeout` is not positive, or the solver does not pickle.
    """

    def __init__(self, solver: Solver, timeout: float | None = None) -> None:
        super().__init__(solver)
        if timeout is not None:
            check_positive("timeout", timeout)
        self._child, self._seed = _Child(solver, timeout), -1

    def with_seed(self, seed: int) -> Apart:
        """See `Wrapper`; the child stays the same."""
        if not isinstance(self._solver, Seeded):
            return self
        twin = copy.copy(self)
        twin._seed = seed
        return twin

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`.

        Raises:
            SolverError: With the states at which the solver failed, crashed or hung.
        """
        answers, failures = [], []
        for i in range(len(state)):
            one = state[i : i + 1]
            try:
                given = None if forcing is None else forcing[i : i + 1]
                answer = self._child.step(one, given, self._seed)
                # What is no state is left to `BlackBox` to refuse.
                answer = answer.to(state.device) if isinstance(answer, Tensor) else answer
            except SolverError as error:
                answer = torch.full_like(one, torch.nan)
                failures.append(Failure(i, str(error)))
            answers.append(answer)
        whole = torch.cat(answers)
        if failures:
            raise error_of(failures, whole)
        return whole


class _GoneError(Exception):
    """The child is of no use any more."""


@final
class _Child:
    """The process and the two pipes to it; started where there is none."""

    def __init__(self, solver: Solver, timeout: float | None) -> None:
        try:
            self._solver = pickle.dumps(solver)
        except Exception as error:  # a user's object may raise anything
            raise InputError(
                "a solver apart",
                got=f"{type(error).__name__}: {first_line(error)}",
                expected="one that pickles",
                remedy="define its class at the top of a module, without lambdas inside",
            ) from error
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def step(self, state: State, forcing: Forcing | None, seed: int) -> Any:  # noqa: ANN401
        # A view would be pickled with everything that it is a view of.
        given = (state.cpu().clone(), None if forcing is None else forcing.cpu().clone(), seed)
        try:
            if self._process is None:
                self._start()
            self._send(pickle.dumps(given))
            kind, content = self._receive(self._timeout)
        except _GoneError as error:
            self._gone()
            raise SolverError(str(error)) from None
        if kind == "answer":
            return content
        raise SolverError(content)

    def _start(self) -> None:
        # A bare child, not one of multiprocessing's: workers of Dask are not allowed any of those.
        command = [sys.executable, "-c", "from zopde.blackbox.apart import serve; serve()"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._finish = weakref.finalize(self, _end, self._process)
        self._send(pickle.dumps((sys.path, user_files())))
        self._send(self._solver)
        kind, content = self._receive(_START)
        if kind != "ready":
            self._gone()
            raise SolverError(f"the solver's process did not start: {content}")

    def _send(self, data: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            write_message(self._process.stdin, data)
        except OSError:
            raise _GoneError(self._why()) from None

    def _receive(self, timeout: float | None) -> tuple[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        file = self._process.stdout.fileno()
        until = None if timeout is None else time.monotonic() + timeout
        data, wanted = bytearray(), LENGTH
        while len(data) < wanted:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([file], [], [], left)[0]:
                raise _GoneError(f"no answer within {timeout:g} s")
            part = os.read(file, wanted - len(data))
            if not part:
                raise _GoneError(self._why())
            data += part
            if len(data) == LENGTH == wanted:
                wanted += int.from_bytes(data, "little")
        kind, content = pickle.loads(data[LENGTH:])
        return kind, content

    def _gone(self) -> None:
        self._finish()
        self._process = None

    def _why(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(_END)
        except subprocess.TimeoutExpired:
            return "the solver's process closed its pipe"
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"the solver's process ended {how}"

    def __getstate__(self) -> dict[str, Any]:
        # A process has one parent.
        return {"_solver": self._solver, "_timeout": self._timeout, "_process": None}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was not sent yet has nobody to go to
                pipe.close()
