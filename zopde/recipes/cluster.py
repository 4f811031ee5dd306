"""Workers of a Dask cluster, this machine's or others'."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

import torch

from zopde.errors import InputError, first_line

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
