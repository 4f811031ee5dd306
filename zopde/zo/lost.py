"""Tasks for an executor, given to it again where a worker died with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def answered(
    executor: Executor, work: Callable[[T], R], tasks: Sequence[T]
) -> Iterator[tuple[int, R]]:
    """(n, work(tasks[n])) for every task, in the order in which they are done.

    Args:
        executor: Anything with the interface of `concurrent.futures.Executor`.
        work: Must pickle, as must the tasks.
        tasks: What to work on; each is redone until its worker lives to answer.

    Raises:
        SolverError: If workers die again and again; and whatever `work` raises.
    """
    left = set(range(len(tasks)))
    while left:
        running: dict[Future[R], int] = {}
        try:
            for number in sorted(left):
                running[executor.submit(work, tasks[number])] = number
            for future in as_completed(running):
                if not isinstance(future.exception(), BrokenExecutor):
                    left.remove(running[future])
                    yield running[future], future.result()
        except BaseException:
            for future in running:
                future.cancel()
            raise
