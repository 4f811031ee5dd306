"""Where a run's losses are answered: in this process, or by workers.

Workers of a Dask cluster, this machine's or others'.

Where and how a run computes, and what it does when a solver fails.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from zopde.blackbox import CountedSolver
from zopde.contracts import Objective, Solver
from zopde.errors import InputError, first_line
from zopde.oracle import ExecutorOracle, WeightOracles, WorkerPool
from zopde.oracle.shipping import Shipment
from zopde.studies.settings import check_distinct
from zopde.training import OracleAt
from zopde.training.gradients import NetworkOracle
from zopde.validate import check_device

_PATIENCE = "20s"  # for a scheduler to answer


@contextmanager
def dask_executor(spec: str, workers: int, threads: int) -> Iterator[Executor]:
    """An executor of Dask's, for `zopde.ExecutorOracle`.

    A worker that dies is replaced by its nanny, and Dask gives its tasks to others; after
    four deaths a task counts as lost. A solver that crashes again and again belongs into a
    process of its own: `run.apart`.

    Args:
        spec: "dask" for a local cluster, "dask://host:port" for a running one.
        workers: Processes of the local cluster.
        threads: Torch threads of each worker.

    Raises:
        InputError: If the package is missing or the scheduler does not answer.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            "run.executor",
            got=repr(spec),
            expected="the package `distributed`",
            remedy='install it: pip install "zopde[dask]"',
        ) from error
    address = spec.partition("://")[2]
    cluster: Any = None
    try:
        if address:
            client = Client(f"tcp://{address}", timeout=_PATIENCE)
        else:
            # One task at a time: a solver is no more thread-safe than torch.fx.
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
            )
            client = Client(cluster)
    except OSError as error:
        raise InputError(
            "run.executor",
            got=f"{spec!r} ({first_line(error)})",
            expected="the address of a running Dask scheduler",
        ) from error
    try:
        client.register_worker_callbacks(_Threads(threads))
        yield client.get_executor(pure=False)
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


class _Threads:
    """Sets a worker's torch threads: round-off depends on them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(self) -> None:
        torch.set_num_threads(self._count)


@dataclass(frozen=True)
class RunSettings:
    """Which labels, which seeds, where. `checkpoint_seconds`: time between checkpoints.

    Zeroth-order probes are answered by `workers` processes of `threads` threads each, with the
    same numbers however many they are; 0: in this process. `executor` sends them elsewhere:
    "dask" (a local cluster of `workers`), "dask://host:port" (a running one, which finds the
    folder `scratch` on every machine; "" is the temporary folder).

    `failures`: a solver step that fails ends the run ("raise"), is asked for again up to `retries`
    times before it does ("retry"), or is left out after that ("drop"). Where more than a share
    `failure_limit` of the steps fail, the run ends in any case; --resume goes on. `apart` runs the
    solver in a process of its own beside each that asks, so that a crash, or a step of more than
    `timeout` seconds (0: any), is a failed step. `store` is a file that keeps every answer, at
    most `store_gib`, so that nothing is asked twice; for solvers that take long.
    """

    labels: tuple[str, ...] = ("SRC", "NON", "NOG", "ZO-weights", "SOL")
    seeds: tuple[int, ...] = (0,)
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    checkpoint_seconds: float = 10.0
    workers: int = 0
    threads: int = 1
    executor: str = ""
    scratch: str = ""
    failures: Literal["raise", "retry", "drop"] = "raise"
    retries: int = 2
    failure_limit: float = 0.25
    apart: bool = False
    timeout: float = 0.0
    store: str = ""
    store_gib: float = 10.0


class Workers(Protocol):
    """The part of a recipe's run settings that says who answers probes; see `RunSettings`."""

    @property
    def workers(self) -> int:
        """Processes; 0: this one."""
        ...

    @property
    def threads(self) -> int:
        """Threads of each."""
        ...

    @property
    def executor(self) -> str:
        """Where else."""
        ...

    @property
    def scratch(self) -> str:
        """Folder that all share."""
        ...


def check_run_settings(run: RunSettings) -> None:
    """Require values that agree with each other.

    Raises:
        InputError: At the first that does not.
    """
    check_distinct("run.seeds", run.seeds)
    check_device("run.device", run.device)
    check_executor(run)
    if run.timeout and not run.apart:
        raise InputError(
            "run.timeout",
            got=run.timeout,
            expected="0 where the solver runs in this process",
            remedy="add run.apart=true, or use the solver's own time-out",
        )


def elsewhere(run: Workers) -> bool:
    """Whether other processes answer the probes of the weight cut."""
    return bool(run.workers or run.executor)


def check_executor(run: Workers) -> None:
    """Require an executor that is known, and workers where it needs their number."""
    kind, _, address = run.executor.partition("://")
    if run.executor not in ("", "dask") and not (kind == "dask" and ":" in address):
        raise InputError(
            "run.executor",
            got=repr(run.executor),
            expected='"" (processes of this machine), "dask" or "dask://host:port"',
        )
    if run.executor == "dask" and not run.workers:
        raise InputError("run.workers", got=0, expected="how many the local cluster has")


# Tasks of a gradient at least, so that some workers share it evenly. It must not be their
# number: the chunks, and with them the last bits, may not depend on that.
_TASKS = 8


class ProbeSettings(Protocol):
    """How many probes share a pass."""

    @property
    def chunk(self) -> int:
        """Probes per pass."""
        ...


class Config(Protocol):
    """The part of a recipe's settings that decides where losses are answered."""

    @property
    def zo(self) -> ProbeSettings:
        """The probes."""
        ...

    @property
    def run(self) -> Workers:
        """Who answers them."""
        ...


def worker_pool(config: Config) -> AbstractContextManager[Executor | None]:
    """The executor of a run with workers; processes of its own start at their first task."""
    run = config.run
    if run.executor:
        return dask_executor(run.executor, run.workers, run.threads)
    return WorkerPool(run.workers, run.threads) if run.workers else nullcontext()


def check_workers(config: Config, solver: Solver) -> None:
    """Require, before anything costs time, that the solver can be sent to workers.

    Raises:
        InputError: If it does not pickle.
    """
    if elsewhere(config.run):
        Shipment((solver,))


def probes_per_pass(config: Config, active: int) -> int:
    """`zo.chunk` probes; fewer, and evenly many, where workers share `active` ones."""
    most = config.zo.chunk
    if not elsewhere(config.run):
        return most
    # Equal tasks: a last one of two probes would cost a whole pass while others wait.
    return math.ceil(active / max(_TASKS, math.ceil(active / most)))


def oracle_at(
    config: Config, pool: Executor | None, counter: CountedSolver | None, active: int
) -> OracleAt:
    """What answers the probes of the weight cut at every iteration.

    Args:
        config: The run's settings.
        pool: From `worker_pool`.
        counter: The solver of the objectives; counts what it does in workers, too. None: none.
        active: Coordinates asked for at an iteration.
    """
    chunk = probes_per_pass(config, active)
    kept = () if counter is None else (counter,)
    if pool is None:
        return WeightOracles(chunk)

    def make(network: nn.Module, objective: Objective) -> NetworkOracle:
        folder = Path(config.run.scratch) if config.run.scratch else None
        return ExecutorOracle(network, objective, pool, chunk, kept=kept, folder=folder)

    return make


def side_by_side(config: Config) -> int:
    """How many workers this machine's cores let run at full speed."""
    cores = os.cpu_count() or 1
    return max(1, min(config.run.workers, cores // config.run.threads))


@contextmanager
def threads_of_a_worker(config: Config) -> Iterator[None]:
    """Measure here what a worker does there, without starting any."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.run.threads if elsewhere(config.run) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
