"""Every entry probed at every step: the yardstick."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import State
from zopde.interface.differences import (
    check_probing,
    check_whole,
    entry_responses,
    probes_per_call,
    without_failed,
)
from zopde.interface.vjp import Step
from zopde.zo.cge import Scheme


@final
class DensePullback:
    """J^T v from one probe per entry of the varied input.

        (J^T v)_j = <v, [S(x + mu e_j) - S(x)] / mu>

    Exact up to O(mu) (forward) or O(mu^2) (central). Queries: D solver steps per state and step
    (twice as many with the central scheme), D = number of entries. No randomness. An entry whose
    probe failed gets zero.

    Args:
        mu: Finite-difference step, in the units of the varied input; > 0.
        scheme: "forward" or "central".
        states: States of a solver call at most.

    Raises:
        InputError: If `mu` or `states` is not positive, or the scheme is unknown.
    """

    def __init__(self, mu: float = 1e-3, scheme: Scheme = "forward", states: int = 512) -> None:
        check_probing(mu, scheme, states)
        self._mu, self._scheme, self._states = mu, scheme, states

    def __call__(
        self, step: Step, cotangent: State
    ) -> Float[Tensor, "batch varied_channel *space"]:
        """See `Pullback`."""
        found = torch.empty_like(step.point).flatten()
        for first, rows, answers in responses(step, self._mu, self._scheme, self._states):
            product = (without_failed(answers) * cotangent[rows]).flatten(1).sum(dim=1)
            found[first : first + len(product)] = product
        return found.view_as(step.point)


def responses(
    step: Step, mu: float, scheme: Scheme, states: int
) -> Iterator[tuple[int, Tensor, Float[Tensor, "probes channel *space"]]]:
    """The response to every entry of the varied input, one solver call at a time.

    Yields:
        (number of the first entry, counted over the whole batch; the row of each; J e_j).
    """
    point = step.point
    per_state = point[0].numel()
    chunk = probes_per_call(states, scheme)
    for first in range(0, point.numel(), chunk):
        entries = torch.arange(first, min(first + chunk, point.numel()), device=point.device)
        rows = entries // per_state
        yield first, rows, entry_responses(step, rows, entries % per_state, mu, scheme)


def jacobians(
    step: Step, mu: float = 1e-3, scheme: Scheme = "forward", states: int = 512
) -> Float[Tensor, "batch inputs outputs"]:
    """The transposed Jacobian of every state of a batch, J^T[j, i] = d S_i / d x_j.

    Queries: D solver steps per state, twice as many with the central scheme.

    Args:
        step: Where to differentiate.
        mu: Finite-difference step, in the units of the varied input.
        scheme: "forward" or "central".
        states: States of a solver call at most.

    Raises:
        SolverError: If a probe failed: a Jacobian must be whole.
    """
    check_probing(mu, scheme, states)
    outputs = step.stepped[0].numel()
    found = step.point.new_empty(step.point.numel(), outputs)
    for first, _, answers in responses(step, mu, scheme, states):
        check_whole(answers)
        found[first : first + len(answers)] = answers.flatten(1)
    return found.view(len(step.point), -1, outputs)
