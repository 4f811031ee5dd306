"""Where and how a run computes, and what it does when a solver fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from zopde.checks import check_device
from zopde.errors import InputError
from zopde.recipes.legal import check_distinct


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
