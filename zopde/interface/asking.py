"""Responses of a step to many directions: measured in this process, or by the run's workers."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from torch import Tensor

from zopde.contracts import Tally, counts_of
from zopde.interface.vjp import Probing, Responses, Rows, Step, differences
from zopde.oracle.executor import finished, in_turn
from zopde.oracle.shipping import Shipment, Ticket, load

Call = tuple[Rows, Tensor]
"""One solver call: rows of a batch, and a direction for each, flat or of the varied input's shape.

Directions of few entries each may lie in a sparse tensor; as such they travel.
"""


def responses(step: Step, calls: Iterable[Call], probing: Probing) -> Iterator[Responses]:
    """Measure J d for every direction of every call, call after call; see `differences`.

    In this process, or by the workers of `probing.executor`: the same bits, however many they are,
    where they have as many torch threads as this process. What the workers' copies of the solver
    count is added to the solver, where that is a `zopde.contracts.Tally`.

    Args:
        step: Where.
        calls: (rows, directions), of `probing.per_call` probes at most.
        probing: How; `mu` is a multiple of the directions as they are.

    Raises:
        InputError: If the solver does not pickle for the workers.
        SolverError: If the solver fails, or workers die again and again.
    """
    early, due = dict[int, Responses](), 0
    for number, found in as_they_come(step, calls, probing):
        early[number] = found
        while due in early:
            yield early.pop(due)
            due += 1


def as_they_come(
    step: Step, calls: Iterable[Call], probing: Probing
) -> Iterator[tuple[int, Responses]]:
    """As `responses`, with the number of the call, in the order in which they finish."""
    if probing.executor is None:
        for number, (rows, directions) in enumerate(calls):
            yield number, _differences(step, rows, directions, probing)
        return
    # A view would be pickled with everything that it is a view of.
    forcing = None if step.forcing is None else step.forcing.detach().clone()
    state, stepped = step.state.detach().clone(), step.stepped.detach().clone()
    own = replace(step, state=state, forcing=forcing, stepped=stepped)
    # Plain bytes: some executors share a tensor's memory.
    tasks = [pickle.dumps((rows.clone(), directions.clone())) for rows, directions in calls]
    shipment = Shipment((step.solver,))
    alone = replace(probing, executor=None)  # an executor does not pickle
    work = partial(in_turn, _in_worker, shipment.publish(own), alone)
    for number, (data, counts) in finished(probing.executor, work, tasks):
        if isinstance(step.solver, Tally):
            step.solver.add(counts)
        yield number, pickle.loads(data)


def _in_worker(ticket: Ticket, probing: Probing, task: bytes) -> tuple[bytes, Counter[str]]:
    step, _ = load(ticket, lambda step: step)
    before = counts_of(step.solver)
    rows, directions = pickle.loads(task)
    found = _differences(step, rows, directions, probing)
    return pickle.dumps(found), counts_of(step.solver) - before


def _differences(step: Step, rows: Rows, directions: Tensor, probing: Probing) -> Responses:
    moved = directions.to_dense().view(-1, *step.point.shape[1:])
    return differences(step, rows, moved, probing.mu, probing.scheme)
