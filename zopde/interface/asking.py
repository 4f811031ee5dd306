"""Work on a step's solver by the run's workers, which see the step once."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

from zopde.contracts import Tally, counts_of
from zopde.oracle.executor import Sharing, finished, in_turn
from zopde.oracle.shipping import Shipment, Ticket, load

R = TypeVar("R")


def by_workers(
    executor: Executor,
    solver: object,
    content: object,
    work: Callable[..., R],
    tasks: Iterable[tuple[Any, ...]],
) -> Iterator[tuple[int, R]]:
    """(n, work(content, *tasks[n])) for every task, in the order in which they finish.

    The content goes to each worker once, the solver that is a part of it once for all contents.
    What the workers' copies of it count is added to it, where it is a `zopde.contracts.Tally`.

    Raises:
        InputError: If the solver does not pickle.
        SolverError: If the solver fails, or workers die again and again.
    """
    # Plain bytes, here and in the result: some executors share a tensor's memory.
    packed = [pickle.dumps(task) for task in tasks]
    folder = executor.folder if isinstance(executor, Sharing) else None
    shipment = Shipment((solver,), folder)
    in_worker = partial(in_turn, _in_worker, shipment.publish(content), work)
    for number, (data, counts) in finished(executor, in_worker, packed):
        if isinstance(solver, Tally):
            solver.add(counts)
        yield number, pickle.loads(data)


def _in_worker(ticket: Ticket, work: Callable[..., Any], task: bytes) -> tuple[bytes, Counter[str]]:
    content, (solver,) = load(ticket, lambda content: content)
    before = counts_of(solver)
    found = pickle.dumps(work(content, *pickle.loads(task)))
    return found, counts_of(solver) - before
