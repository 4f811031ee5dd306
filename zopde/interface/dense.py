"""Every entry of a step's input probed: the yardstick of all other ways."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import State
from zopde.interface.vjp import (
    Probing,
    Responses,
    Rows,
    Step,
    Varied,
    differences,
    without_failed,
)
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
        self._probing = Probing(mu, scheme, states)

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        point = step.point
        entries, products = point[0].numel(), []
        for probes in torch.arange(point.numel(), device=point.device).split(
            self._probing.per_call
        ):
            rows = probes // entries
            responses = entry_responses(step, rows, probes % entries, self._probing)
            products.append((without_failed(responses) * cotangent[rows]).flatten(1).sum(dim=1))
        return torch.cat(products).view_as(point)


def entry_responses(
    step: Step, rows: Rows, entries: Int[Tensor, " probes"], probing: Probing
) -> Responses:
    """J e_j for single entries of the varied input, each of the state in its row; one call."""
    point = step.point
    directions = point.new_zeros(len(entries), point[0].numel())
    directions[torch.arange(len(entries), device=point.device), entries] = 1
    directions = directions.view(-1, *point.shape[1:])
    return differences(step, rows, directions, probing.mu, probing.scheme)


@final
class EntryOracle:
    """Evaluates l(x) = <v, S(x)> around one state: its gradient is J^T v.

    A `zopde.contracts.Oracle`, so that `sweep_mu` and `measure_noise` work on a solver's step as
    on a loss.

    Args:
        step: A step of one state.
        cotangent: (1, channel, *space), v.
        states: States of a solver call at most.
    """

    def __init__(self, step: Step, cotangent: State, states: int = 64) -> None:
        self._step, self._cotangent, self._states = step, cotangent, states

    @property
    def num_coordinates(self) -> int:
        """Entries of the varied input."""
        return self._step.point[0].numel()

    def base(self) -> Float[Tensor, ""]:
        """l(x), measured anew."""
        return self._losses(self._step.point.flatten(1))[0]

    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(x + mu e_i) for every i; see `zopde.contracts.Oracle`."""
        points = self._step.point.flatten(1).repeat(len(indices), 1)
        far = torch.as_tensor(mu, dtype=points.dtype, device=points.device)
        points[torch.arange(len(indices)), indices] += far
        return self._losses(points)

    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(x + mu u_j) for every row; see `zopde.contracts.Oracle`."""
        return self._losses(self._step.point.flatten(1) + mu * directions.to(self._step.point))

    def _losses(self, points: Tensor) -> Tensor:
        losses = []
        for part in points.split(self._states):
            rows = torch.zeros(len(part), dtype=torch.long, device=part.device)
            stepped = self._step.query(rows, part.view(-1, *self._step.point.shape[1:]))
            losses.append((stepped * self._cotangent).double().flatten(1).sum(dim=1))
        return torch.cat(losses)
