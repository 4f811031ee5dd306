"""Products by probes that know nothing of the solver: every entry in turn, or random directions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from zopde.contracts import State
from zopde.interface.vjp import (
    Call,
    Probing,
    Rows,
    Scale,
    Step,
    Varied,
    failed,
    per_row,
    responses,
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
    (twice as many with the central scheme), D = number of entries, those outside of the grid's mask
    left out. No randomness. An entry whose
    probe failed gets zero.

    Args:
        mu: As in `Probing`, like `scheme`, `states`, `scale` and what is raised.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        scale: (channel,), what `mu` is in units of; None measures it.
        executor: As in `Probing`.
    """

    @checked
    def __init__(
        self,
        mu: float = 1e-3,
        scheme: Scheme = "forward",
        states: int = 512,
        scale: Scale = None,
        executor: Executor | None = None,
    ) -> None:
        self._probing = Probing(mu, scheme, states, executor, scale)

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        point, entries, units, products = step.point, step.entries, self._probing.units(step), []
        probes = self._probing.calls(len(point) * len(entries), point)
        rows = [p // len(entries) for p in probes]
        moved = [entries[p % len(entries)] for p in probes]
        calls = ((r, single_entries(step, r, e, units)) for r, e in zip(rows, moved, strict=True))
        for n, found in enumerate(responses(step, calls, self._probing)):
            sizes = per_row(units_of(step, rows[n], moved[n], units), found)
            weighted = without_failed(found / sizes) * cotangent[rows[n]]
            products.append(weighted.flatten(1).sum(dim=1))
        found = torch.zeros_like(point).flatten(1)
        found[:, entries] = torch.cat(products).view(len(point), -1)
        return found.view_as(point)


def units_of(
    step: Step, rows: Rows, entries: Int[Tensor, " probes"], units: Varied
) -> Float[Tensor, " probes"]:
    """The scale of single entries of the varied input, each of the state in its row."""
    return units.flatten(1)[rows, entries // step.point[0, 0].numel()]


def single_entries(
    step: Step, rows: Rows, entries: Int[Tensor, " probes"], units: Varied
) -> Float[Tensor, "probes entries"]:
    """Directions that move one entry each, by its scale; sparse."""
    where = torch.stack([torch.arange(len(entries), device=entries.device), entries])
    size = len(entries), step.point[0].numel()
    sizes = units_of(step, rows, entries, units)
    return torch.sparse_coo_tensor(where, sizes, size, check_invariants=True)


@final
class RandomPullback:
    """Estimates J^T v from directional derivatives along random directions, by their average.

        J^T v  ~  (1/q) sum_k <v, J s u_k> u_k / s,      E[u u^T] = I

    with s the scale of each entry's channel, so that no unit decides the noise. Unbiased up to
    O(mu), which suits a black box with few numbers in front of the loss, such as a classifier's
    latent; the variance of an entry of s J^T v is about |s J^T v|^2 / q, and an unroll multiplies
    it step by step: for a solver's step take `CorrectedPullback`. Queries: q solver steps per
    state and step, twice as many with the central scheme. Randomness: the directions (entries -1
    and +1). Probes that failed are left out, and q is the number of the others: 0 where there is
    none.

    Args:
        generator: Source of the directions.
        directions: q, >= 1.
        mu: As in `Probing`, like `scheme`, `states` and `scale`.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        scale: (channel,), what `mu` is in units of; None measures it.
        executor: As in `Probing`.

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
        scale: Scale = None,
        executor: Executor | None = None,
    ) -> None:
        self._probing = Probing(mu, scheme, states, executor, scale)
        check_count("directions", directions)
        self._generator, self._directions = generator, directions

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        point, q, probing = step.point, self._directions, self._probing
        units, drawn = probing.units(step), list[tuple[Rows, Varied]]()

        def calls() -> Iterator[Call]:
            for probes in probing.calls(len(point) * q, point):
                signs = rademacher(len(probes), point[0].numel(), self._generator, torch.float32)
                drawn.append((probes // q, signs.to(point).view(-1, *point.shape[1:])))
                yield probes // q, units[probes // q] * drawn[-1][1]

        total, counts = torch.zeros_like(point), point.new_zeros(len(point))
        for found in responses(step, calls(), probing):
            rows, u = drawn.pop(0)
            good = ~failed(found)
            rows, u = rows[good], u[good]
            counts += rows.bincount(minlength=len(point))
            along = (found[good] * cotangent[rows]).flatten(1).sum(dim=1)
            total.index_add_(0, rows, per_row(along, u) * u / units[rows])
        return total / per_row(counts.clamp_min(1), point)


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
        """Entries of the varied input, see `Step.entries`."""
        return len(self.step.entries)

    def base(self) -> Float[Tensor, ""]:
        """l(x), measured anew."""
        return self._losses(self.step.point.flatten(1))[0]

    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(x + mu e_i) for every i; see `zopde.contracts.Oracle`."""
        points = self.step.point.flatten(1).repeat(len(indices), 1)
        entries = self.step.entries[indices]
        points[torch.arange(len(indices)), entries] += torch.as_tensor(
            mu, dtype=points.dtype, device=points.device
        )
        return self._losses(points)

    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(x + mu u_j) for every row; see `zopde.contracts.Oracle`."""
        moved = torch.zeros_like(self.step.point).flatten(1).repeat(len(directions), 1)
        moved[:, self.step.entries] = mu * directions.to(moved)
        return self._losses(self.step.point.flatten(1) + moved)

    def _losses(self, points: Tensor) -> Tensor:
        losses = []
        for part in points.split(self.states):
            rows = torch.zeros(len(part), dtype=torch.long, device=part.device)
            stepped = self.step.query(rows, part.view(-1, *self.step.point.shape[1:]))
            losses.append((stepped * self.cotangent).double().flatten(1).sum(dim=1))
        return torch.cat(losses)
