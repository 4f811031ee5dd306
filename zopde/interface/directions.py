"""Products by probes that know nothing of the solver: every entry in turn, or random directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from zopde.contracts import State
from zopde.interface.vjp import (
    Probing,
    Responses,
    Rows,
    Scale,
    Step,
    Varied,
    differences,
    failed,
    per_row,
    without_failed,
)
from zopde.validate import check_count, checked
from zopde.zo.cge import Scheme
from zopde.zo.rge import rademacher


@final
class DensePullback:
    """Measures J^T v by changing every entry of the varied input, one after the other.

        (J^T v)_j = <v, [S(x + mu s_j e_j) - S(x)]> / (mu s_j),   s_j the scale of j's channel

    Exact up to O(mu) (forward) or O(mu^2) (central). Queries: D solver steps per state and step
    (twice as many with the central scheme), D = number of entries. No randomness. An entry whose
    probe failed gets zero.

    Args:
        mu: As in `Probing`, like `scheme`, `states`, `scale` and what is raised.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        scale: (channel,), what `mu` is in units of; None measures it.
    """

    @checked
    def __init__(
        self, mu: float = 1e-3, scheme: Scheme = "forward", states: int = 512, scale: Scale = None
    ) -> None:
        self._probing = Probing(mu, scheme, states, scale=scale)

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        entries, products = step.point[0].numel(), []
        for probes in self._probing.calls(step.point.numel(), step.point):
            rows = probes // entries
            responses = entry_responses(step, rows, probes % entries, self._probing)
            products.append((without_failed(responses) * cotangent[rows]).flatten(1).sum(dim=1))
        return torch.cat(products).view_as(step.point)


def entry_responses(
    step: Step, rows: Rows, entries: Int[Tensor, " probes"], probing: Probing
) -> Responses:
    """J e_j for single entries of the varied input, each of the state in its row; one call."""
    point, p = step.point, torch.arange(len(entries), device=step.point.device)
    units = probing.units(step).expand_as(point).flatten(1)[rows, entries]
    directions = point.new_zeros(len(entries), point[0].numel())
    directions[p, entries] = units
    directions = directions.view(-1, *point.shape[1:])
    responses = differences(step, rows, directions, probing.mu, probing.scheme)
    return responses / per_row(units, responses)


@final
class RandomPullback:
    """Estimates J^T v from directional derivatives along random directions.

        J^T v  ~  w + (1/q) sum_k (<v, J s u_k> - <w, s u_k>) u_k / s,      E[u u^T] = I

    with s the scale of each entry's channel, so that no unit decides the noise, and w = v
    ("identity": a step changes little, so only J - 1 is left to chance) or w = 0 ("zero").
    Unbiased up to O(mu); the variance of an entry of s J^T v is about |s (J^T v - w)|^2 / q, and
    a long unroll multiplies it step by step. Queries: q solver steps per state and step, twice
    as many with the central scheme. Randomness: the directions (entries -1 and +1). Probes that
    failed are left out, and q is the number of the others: w where there is none.

    Args:
        generator: Source of the directions.
        directions: q, >= 1.
        mu: As in `Probing`, like `scheme`, `states` and `scale`.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        around: w, for the influence of the state; that of the forcing always has w = 0.
        scale: (channel,), what `mu` is in units of; None measures it.

    Attributes:
        variance: Estimated variance of a product's entries, a mean over the products so far.

    Raises:
        InputError: If a setting is out of range.
    """

    @checked
    def __init__(
        self,
        generator: Generator,
        directions: int = 64,
        mu: float = 1e-3,
        scheme: Scheme = "forward",
        states: int = 512,
        around: Literal["identity", "zero"] = "identity",
        scale: Scale = None,
    ) -> None:
        self._probing = Probing(mu, scheme, states, scale=scale)
        check_count("directions", directions)
        self._generator, self._directions, self._around = generator, directions, around
        self.variance, self._products = 0.0, 0

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        point, q, probing = step.point, self._directions, self._probing
        identity = self._around == "identity" and step.variable == "state"
        guess = cotangent if identity else torch.zeros_like(point)
        correction, squares, units = torch.zeros_like(point), 0.0, probing.units(step)
        counts = torch.zeros(len(point), dtype=torch.long, device=point.device)
        for probes in probing.calls(len(point) * q, point):
            rows = probes // q
            drawn = rademacher(len(rows), point[0].numel(), self._generator, torch.float32)
            u = drawn.to(point).view(-1, *point.shape[1:])
            moved = units[rows] * u
            responses = differences(step, rows, moved, probing.mu, probing.scheme)
            good = ~failed(responses)
            rows, u, responses = rows[good], u[good], responses[good]
            counts += rows.bincount(minlength=len(point))
            along = (responses * cotangent[rows]).flatten(1).sum(dim=1)
            along = along - (guess[rows] * moved[good]).flatten(1).sum(dim=1)
            changes = per_row(along, u) * u / units[rows]
            squares += float(changes.double().square().flatten(1).mean(dim=1).sum())
            correction.index_add_(0, rows, changes)
        variance = squares / max(1, int(counts.sum())) / q
        self._products += 1
        self.variance += (variance - self.variance) / self._products
        return guess + correction / per_row(counts.clamp_min(1).to(point), point)


@final
@dataclass(frozen=True)
class EntryOracle:
    """Evaluates l(x) = <v, S(x)> around one state: its gradient is J^T v.

    A `zopde.contracts.Oracle`, so that `sweep_mu` and `measure_noise` work on a solver's step as
    on a loss.
    """

    step: Step  # a step of one state
    cotangent: State  # (1, channel, *space), v
    states: int = 64  # states of a solver call at most

    @property
    def num_coordinates(self) -> int:
        """Entries of the varied input."""
        return self.step.point[0].numel()

    def base(self) -> Float[Tensor, ""]:
        """l(x), measured anew."""
        return self._losses(self.step.point.flatten(1))[0]

    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(x + mu e_i) for every i; see `zopde.contracts.Oracle`."""
        points = self.step.point.flatten(1).repeat(len(indices), 1)
        points[torch.arange(len(indices)), indices] += torch.as_tensor(
            mu, dtype=points.dtype, device=points.device
        )
        return self._losses(points)

    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(x + mu u_j) for every row; see `zopde.contracts.Oracle`."""
        return self._losses(self.step.point.flatten(1) + mu * directions.to(self.step.point))

    def _losses(self, points: Tensor) -> Tensor:
        losses = []
        for part in points.split(self.states):
            rows = torch.zeros(len(part), dtype=torch.long, device=part.device)
            stepped = self.step.query(rows, part.view(-1, *self.step.point.shape[1:]))
            losses.append((stepped * self.cotangent).double().flatten(1).sum(dim=1))
        return torch.cat(losses)
