"""The responses to single entries, split into solver calls that can be answered anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.interface.differences import check_whole, entry_responses, probes_per_call
from zopde.interface.vjp import Step
from zopde.zo.cge import Scheme
from zopde.zo.lost import answered
from zopde.zo.parcels import Parcels, Ticket, load


@dataclass(frozen=True)
class Call:
    """Some entries of the varied input of one state.

    Args:
        row: Which state of the step's batch.
        first: The first entry.
        count: How many from there.
    """

    row: int
    first: int
    count: int


def calls_for(step: Step, scheme: Scheme, states: int) -> list[Call]:
    """Every entry of every state; no call takes more than `states` states, or two rows."""
    entries, chunk = step.point[0].numel(), probes_per_call(states, scheme)
    return [
        Call(row, first, min(chunk, entries - first))
        for row in range(len(step.point))
        for first in range(0, entries, chunk)
    ]


def responses_to(
    step: Step, call: Call, mu: float, scheme: Scheme
) -> Float[Tensor, "probes outputs"]:
    """J e_j for the entries of a call.

    Raises:
        SolverError: If a probe failed.
    """
    entries = torch.arange(call.first, call.first + call.count, device=step.point.device)
    rows = torch.full_like(entries, call.row)
    found = entry_responses(step, rows, entries, mu, scheme)
    check_whole(found)
    return found.flatten(1)


def answer_calls(
    step: Step,
    calls: Sequence[Call],
    mu: float,
    scheme: Scheme,
    executor: Executor | None = None,
) -> Iterator[tuple[Call, Float[Tensor, "probes outputs"]]]:
    """The responses to every call in float32, as they come.

    Args:
        step: Where; its solver must pickle for an executor.
        calls: From `calls_for`.
        mu: Finite-difference step, in the units of the varied input.
        scheme: "forward" or "central".
        executor: Who answers; None is this process. The numbers do not depend on it, where
            its processes have as many threads as this one.
    """
    if executor is None:
        for call in calls:
            yield call, responses_to(step, call, mu, scheme).float().cpu()
        return
    parcels = Parcels((step.solver,))
    work = partial(_answer, parcels.publish(step), mu, scheme)
    for number, data in answered(executor, work, calls):
        found = torch.frombuffer(bytearray(data), dtype=torch.float32)
        yield calls[number], found.view(calls[number].count, -1)


def _answer(ticket: Ticket, mu: float, scheme: Scheme, call: Call) -> bytes:
    """A worker's part; plain bytes, since some executors share a tensor's memory."""
    step, _ = load(ticket, _same)
    return responses_to(step, call, mu, scheme).float().cpu().numpy().tobytes()


def _same(step: Step) -> Step:
    return step
