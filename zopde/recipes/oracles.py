"""Where a run's losses are answered: in this process, or by workers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from zopde.hybrid import CountedSolver
from zopde.protocols import Objective, Solver
from zopde.recipes.cluster import dask_executor
from zopde.recipes.run_settings import Workers, elsewhere
from zopde.training import OracleAt
from zopde.training.gradients import NetworkOracle
from zopde.zo import ExecutorOracle, WeightOracles, WorkerPool
from zopde.zo.parcels import Parcels

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
        Parcels((solver,))


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
