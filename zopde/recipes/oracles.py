"""Where a run's losses are answered: in this process, or by workers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from zopde.hybrid import CountedSolver
from zopde.protocols import Objective, Solver
from zopde.recipes.config import CorrectionConfig
from zopde.training import OracleAt
from zopde.training.gradients import NetworkOracle
from zopde.zo import ExecutorOracle, WeightOracle, WorkerPool
from zopde.zo.parcels import Parcels

# Tasks of a gradient at least, so that some workers share it evenly. It must not be their
# number: the chunks, and with them the last bits, may not depend on that.
_TASKS = 8


def worker_pool(config: CorrectionConfig) -> AbstractContextManager[WorkerPool | None]:
    """The pool of a run with workers; they start at their first task."""
    if not config.run.workers:
        return nullcontext()
    return WorkerPool(config.run.workers, config.run.threads)


def check_workers(config: CorrectionConfig, solver: Solver) -> None:
    """Require, before anything costs time, that the solver can be sent to workers.

    Raises:
        InputError: If it does not pickle.
    """
    if config.run.workers:
        Parcels((solver,))


def probes_per_pass(config: CorrectionConfig, active: int) -> int:
    """`zo.chunk` probes; fewer, and evenly many, where workers share `active` ones."""
    most = config.zo.chunk
    if not config.run.workers:
        return most
    # Equal tasks: a last one of two probes would cost a whole pass while others wait.
    return math.ceil(active / max(_TASKS, math.ceil(active / most)))


def oracle_at(
    config: CorrectionConfig, pool: WorkerPool | None, counter: CountedSolver, active: int
) -> OracleAt:
    """What answers the probes of the weight cut at every iteration.

    Args:
        config: The run's settings.
        pool: From `worker_pool`.
        counter: The solver of the objectives; counts the workers' steps, too.
        active: Coordinates asked for at an iteration.
    """
    chunk = probes_per_pass(config, active)

    def make(network: nn.Module, objective: Objective) -> NetworkOracle:
        if pool is None:
            return WeightOracle(network, objective, chunk)
        return ExecutorOracle(network, objective, pool, chunk, kept=(counter,))

    return make


def side_by_side(config: CorrectionConfig) -> int:
    """How many workers this machine's cores let run at full speed."""
    cores = os.cpu_count() or 1
    return max(1, min(config.run.workers, cores // config.run.threads))


@contextmanager
def threads_of_a_worker(config: CorrectionConfig) -> Iterator[None]:
    """Measure here what a worker does there, without starting any."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.run.threads if config.run.workers else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
