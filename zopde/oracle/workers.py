"""Worker processes on this machine that are replaced when they die."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, ParamSpec, TypeVar, final

import torch

from zopde.errors import InputError, SolverError
from zopde.memory import keep_freed_memory
from zopde.validate import check_positive, checked

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
_SECONDS_TO_VANISH = 5.0  # of a killed process
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@final
class WorkerPool(Executor):
    """Runs tasks in worker processes of this machine, and replaces workers that die.

    It has the interface of `concurrent.futures.ProcessPoolExecutor`. Where a worker dies
    (SIGKILL, a crash in the solver, no memory left), the futures of its pool end in
    `BrokenProcessPool`; the next `submit` starts new workers, and whoever holds the futures
    submits again what was lost, as `ExecutorOracle` does.

    Workers are spawned at the first tasks and import what they need (seconds). They write to
    stderr alone, leave Ctrl-C to this process, and end when it ends, in whatever way. As
    with every spawned process, a script that starts them does its work under
    `if __name__ == "__main__":`. Use the pool in a `with` block.

    Args:
        workers: How many processes, >= 1.
        threads: Threads of torch and BLAS in each, >= 1. Round-off depends on it.
        patience: Deaths in a row, without a task done in between, after which to give up.

    Raises:
        InputError: If a number is not positive.
    """

    @checked
    def __init__(self, workers: int, threads: int = 1, patience: int = 3) -> None:
        for name, value in (("workers", workers), ("threads", threads), ("patience", patience)):
            check_positive(name, value)
        self.workers = workers
        self.threads = threads
        self._patience = patience
        self._spawn = _Spawn(threads)
        self._pool: ProcessPoolExecutor | None = None
        self._closed = False
        self._answered = False
        self._deaths = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run fn(*args, **kwargs) in a worker; all of it must pickle.

        Raises:
            SolverError: If workers died `patience` times in a row.
            InputError: If they died while starting.
            RuntimeError: After `shutdown`.
        """
        if self._closed:
            raise RuntimeError("this WorkerPool was shut down")
        try:
            future = self._running().submit(fn, *args, **kwargs)
        except BrokenProcessPool:
            self._clear_away()
            future = self._running().submit(fn, *args, **kwargs)
        future.add_done_callback(self._note_answer)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; end the workers after those they have."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def kill(self) -> None:
        """End the workers at once, in the middle of what they do."""
        self.shutdown(wait=False, cancel_futures=True)
        started = [process for process in self._spawn.started if process.pid is not None]
        for process in started:
            process.kill()
        for process in started:
            process.join(_SECONDS_TO_VANISH)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self.shutdown()
        else:  # after an error or Ctrl-C, nobody wants the answers any more
            self.kill()

    def _running(self) -> ProcessPoolExecutor:
        """The pool, begun anew after a death."""
        if self._pool is None:
            self._spawn.started.clear()
            self._pool = ProcessPoolExecutor(self.workers, self._spawn, _start, (self.threads,))
        return self._pool

    def _note_answer(self, future: Future[T]) -> None:
        if not future.cancelled() and not isinstance(future.exception(), BrokenProcessPool):
            self._answered, self._deaths = True, 0

    def _clear_away(self) -> None:
        """Clear away a broken pool, or give up."""
        assert self._pool is not None
        self._pool.shutdown(wait=True)  # it ends the survivors, which could not go on
        self._pool = None
        self._deaths += 1
        why = _causes([process.exitcode for process in self._spawn.started])
        log.warning("a worker process died (%s), %d in a row", why, self._deaths)
        if self._deaths < self._patience:
            return
        if not self._answered and "exit code" in why:
            expected = "a main script that workers can import"
            remedy = 'put its work under `if __name__ == "__main__":`'
            got = f"{why} while starting"
            raise InputError("worker processes", got=got, expected=expected, remedy=remedy)
        raise SolverError(
            f"worker processes died {self._deaths} times in a row ({why}); a solver that crashes "
            "does that, and too little memory: then take fewer workers or probes per pass"
        )


class _Worker(SpawnProcess):
    """A process whose numerical libraries find the number of threads when they load."""

    threads = 1

    def start(self) -> None:
        before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
        # Ctrl-C reaches the whole terminal; while it imports, a worker would complain of it.
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(self.threads)))
        try:
            super().start()
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)


class _Spawn(SpawnContext):
    """Spawns workers and remembers them."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> _Worker:  # type: ignore[override]  # noqa: ANN401, N802 - multiprocessing's name
        process = _Worker(*args, **kwargs)
        process.threads = self._threads
        self.started.append(process)
        return process


def _start(threads: int) -> None:
    """First of all in a new worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with suppress(OSError):
        os.dup2(2, 1)  # a solver may print; stdout belongs to the result of the main process
    torch.set_num_threads(threads)
    keep_freed_memory()
    # A main process that is killed cannot end its workers, so they watch it.
    threading.Thread(target=_follow_the_parent, daemon=True).start()


def _follow_the_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _causes(codes: list[int | None]) -> str:
    """How the first ones died; the survivors were then ended by SIGTERM."""
    died = {code for code in codes if code} - {-signal.SIGTERM} or {-signal.SIGTERM}
    names = [signal.Signals(-c).name if c < 0 else f"exit code {c}" for c in sorted(died)]
    return ", ".join(names)
