"""Where a run's losses are answered: in this process, or by workers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import nn

from zopde.hybrid import CountedSolver
from zopde.protocols import Objective, Solver
from zopde.training import OracleAt
from zopde.training.gradients import NetworkOracle
from zopde.zo import ExecutorOracle, WeightOracle, WorkerPool
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


class WorkerSettings(Protocol):
    """Who answers them."""

    @property
    def workers(self) -> int:
        """Processes; 0: this one."""
        ...

    @property
    def threads(self) -> int:
        """Threads of each."""
        ...


class Config(Protocol):
    """The part of a recipe's settings that decides where losses are answered."""

    @property
    def zo(self) -> ProbeSettings:
        """The probes."""
        ...

    @property
    def run(self) -> WorkerSettings:
        """The run."""
        ...


def worker_pool(config: Config) -> AbstractContextManager[WorkerPool | None]:
    """The pool of a run with workers; they start at their first task."""
    if not config.run.workers:
        return nullcontext()
    return WorkerPool(config.run.workers, config.run.threads)


def check_workers(config: Config, solver: Solver) -> None:
    """Require, before anything costs time, that the solver can be sent to workers.

    Raises:
        InputError: If it does not pickle.
    """
    if config.run.workers:
        Parcels((solver,))


def probes_per_pass(config: Config, active: int) -> int:
    """`zo.chunk` probes; fewer, and evenly many, where workers share `active` ones."""
    most = config.zo.chunk
    if not config.run.workers:
        return most
    # Equal tasks: a last one of two probes would cost a whole pass while others wait.
    return math.ceil(active / max(_TASKS, math.ceil(active / most)))


def oracle_at(
    config: Config, pool: WorkerPool | None, counter: CountedSolver | None, active: int
) -> OracleAt:
    """What answers the probes of the weight cut at every iteration.

    Args:
        config: The run's settings.
        pool: From `worker_pool`.
        counter: The solver of the objectives; counts the workers' steps, too. None: there is none.
        active: Coordinates asked for at an iteration.
    """
    chunk = probes_per_pass(config, active)
    kept = () if counter is None else (counter,)

    def make(network: nn.Module, objective: Objective) -> NetworkOracle:
        if pool is None:
            return WeightOracle(network, objective, chunk)
        return ExecutorOracle(network, objective, pool, chunk, kept=kept)

    return make


def side_by_side(config: Config) -> int:
    """How many workers this machine's cores let run at full speed."""
    cores = os.cpu_count() or 1
    return max(1, min(config.run.workers, cores // config.run.threads))


@contextmanager
def threads_of_a_worker(config: Config) -> Iterator[None]:
    """Measure here what a worker does there, without starting any."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.run.threads if config.run.workers else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
