"""Which processes evaluate the probes of a run: this one, workers of this machine, or Dask's."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from zopde.blackbox import CountedSolver
from zopde.contracts import Solver
from zopde.errors import InputError, first_line
from zopde.oracle import ExecutorOracle, WeightOracles, WorkerPool
from zopde.oracle.executor import Sharing
from zopde.oracle.shipping import Shipment
from zopde.training import OracleAt

_PATIENCE = "20s"  # for a scheduler to answer


@contextmanager
def dask_executor(spec: str, workers: int, threads: int) -> Iterator[Executor]:
    """An executor of Dask's, for `zopde.ExecutorOracle`.

    A worker that dies is replaced, and its tasks go to others; after four deaths a task is lost. A
    solver that crashes again and again belongs into a process of its own: `run.apart`.
    """
    try:
        from distributed import Client
    except ImportError as error:
        expected, remedy = "the package `distributed`", 'install it: pip install "zopde[dask]"'
        got = repr(spec)
        raise InputError("run.executor", got=got, expected=expected, remedy=remedy) from error
    address = spec.partition("://")[2]
    try:
        if address:
            client = Client(f"tcp://{address}", timeout=_PATIENCE)
        else:
            # One task at a time: a solver is no more thread-safe than torch.fx. Any free port:
            # the usual one may be another run's.
            local = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
            client = Client(n_workers=workers, **local)
    except OSError as error:
        got, expected = f"{spec!r} ({first_line(error)})", "the address of a running Dask scheduler"
        raise InputError("run.executor", got=got, expected=expected) from error
    with client:  # and the local cluster, which is its own
        client.register_worker_callbacks(partial(_set_threads, threads))
        yield client.get_executor(pure=False)


def _set_threads(count: int) -> None:
    """Set a worker's torch threads: round-off depends on them. Dask wants a function in Python."""
    torch.set_num_threads(count)


# Tasks of a gradient at least, so that some workers share it evenly. It must not be their
# number: the chunks, and with them the last bits, may not depend on that.
_TASKS = 8


@dataclass(frozen=True)
class Workers:
    """Who evaluates probes, with the same numbers however many they are."""

    processes: int = 0  # worker processes; 0 for this process
    threads: int = 1  # torch threads of each worker
    # "" for processes of this machine, "dask" for a local cluster of `processes`,
    # "dask://host:port" for a running one
    executor: str = ""
    scratch: str = ""  # folder that all machines of a cluster share; "" is the temporary folder

    def __post_init__(self) -> None:
        kind, _, address = self.executor.partition("://")
        if self.executor not in ("", "dask") and not (kind == "dask" and ":" in address):
            expected = '"" (processes of this machine), "dask" or "dask://host:port"'
            raise InputError("run.executor", got=repr(self.executor), expected=expected)
        if self.executor == "dask" and not self.processes:
            raise InputError("run.workers", got=0, expected="how many the local cluster has")

    @property
    def elsewhere(self) -> bool:
        """Whether other processes evaluate the probes."""
        return bool(self.processes or self.executor)

    @property
    def side_by_side(self) -> int:
        """How many workers this machine's cores let run at full speed."""
        cores = os.cpu_count() or 1
        return max(1, min(self.processes, cores // self.threads))

    @contextmanager
    def pool(self) -> Iterator[Executor | None]:
        """The executor of a run; processes of its own start at their first task."""
        made: AbstractContextManager[Executor | None] = nullcontext()
        if self.executor:
            made = dask_executor(self.executor, self.processes, self.threads)
        elif self.processes:
            made = WorkerPool(self.processes, self.threads)
        with made as pool:
            yield Sharing(pool, Path(self.scratch)) if pool and self.scratch else pool

    def check_solver(self, solver: Solver) -> None:
        """Require, before anything costs time, that the solver can be sent to workers."""
        if self.elsewhere:
            Shipment((solver,))

    def probes_per_pass(self, chunk: int, active: int) -> int:
        """`chunk` probes; fewer, and evenly many, where workers share `active` ones."""
        if not self.elsewhere:
            return chunk
        # Equal tasks: a last one of two probes would cost a whole pass while others wait.
        return math.ceil(active / max(_TASKS, math.ceil(active / chunk)))

    def oracle_at(
        self, chunk: int, active: int, pool: Executor | None, counter: CountedSolver | None = None
    ) -> OracleAt:
        """What evaluates the probes of the weight cut at every iteration.

        `chunk` of the `active` coordinates share a pass. `counter`, the solver of the objectives,
        counts what is done in the workers of `pool`, too.
        """
        chunk = self.probes_per_pass(chunk, active)
        if pool is None:
            return WeightOracles(chunk)
        counted = () if counter is None else (counter,)
        folder = Path(self.scratch) if self.scratch else None
        make = partial(ExecutorOracle, executor=pool, kept=counted, folder=folder)
        return WeightOracles(chunk, make=make)

    @contextmanager
    def measured_here(self) -> Iterator[None]:
        """Compute with a worker's number of threads, to measure what it takes, without one."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads if self.elsewhere else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)
