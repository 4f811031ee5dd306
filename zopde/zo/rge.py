"""Gradient estimation along random directions u with E[u u^T] = I, so that no factor is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from zopde.contracts import Oracle, movable, one_gradient
from zopde.validate import check_count, check_positive, checked
from zopde.zo.cge import Failed, Scheme, check_indices, count_failed, one_sided
from zopde.zo.estimate import Estimate

Combine = Literal["average", "project"]
"""How slopes along directions become a gradient; see `rge`."""
SamplerName = Literal["gaussian", "sphere", "rademacher"]

Sampler = Callable[[int, int, Generator, torch.dtype], Float[Tensor, "count d"]]
"""(count, d, generator, dtype of floating-point numbers) -> directions, on the generator's device.

Each direction is a draw of its own: drawing 3 and then 2 gives the same five as drawing 5.
(`torch.randn` of a whole block does not: it works in groups of sixteen.)
"""


def gaussian(
    count: int, d: int, generator: Generator, dtype: torch.dtype
) -> Float[Tensor, "count d"]:
    """Draw u ~ N(0, I): every entry is standard normal; see `Sampler`."""
    directions = torch.empty(count, d, dtype=dtype, device=generator.device)
    for direction in directions:
        direction.normal_(generator=generator)
    return directions


def sphere(
    count: int, d: int, generator: Generator, dtype: torch.dtype
) -> Float[Tensor, "count d"]:
    """Draw u = sqrt(d) w, w uniform on the unit sphere, so that |u|^2 = d; see `Sampler`.

    DeepZero's and others' "unit sphere" form steps along w and multiplies the estimate by d; here
    the factor is in u, and a step mu has the same length as with the other samplers.
    """
    directions = gaussian(count, d, generator, dtype)
    return directions.mul_(sqrt(d) / directions.norm(dim=1, keepdim=True))


def rademacher(
    count: int, d: int, generator: Generator, dtype: torch.dtype
) -> Float[Tensor, "count d"]:
    """Draw u with entries -1 and +1, each with chance one half; see `Sampler`.

    The least variance of all u with independent entries and E[u u^T] = I.
    """
    directions = torch.empty(count, d, dtype=dtype, device=generator.device)
    for direction in directions:
        direction.random_(0, 2, generator=generator)
    return directions.mul_(2).sub_(1)


SAMPLERS: dict[str, Sampler] = {"gaussian": gaussian, "sphere": sphere, "rademacher": rademacher}


def combined(
    directions: Float[Tensor, "q d"], slopes: Float[Tensor, " q"], combine: Combine
) -> Float[Tensor, " d"]:
    """Make a gradient of slopes along directions.

        average:  g = (1/q) V^T s                          unbiased, where E[u u^T] = I
        project:  g = V^T (V V^T)^+ s = argmin |V g - s|   the projection onto the directions

    Args:
        directions: V, a direction in every row.
        slopes: s, the derivative along each.
        combine: "average" or "project".
    """
    if combine == "average":
        return slopes @ directions.to(slopes) / len(slopes)
    rows = directions.double()
    solved = torch.linalg.pinv(rows @ rows.T, hermitian=True) @ slopes.to(rows)
    gradient: Tensor = (solved @ rows).to(slopes)
    return gradient


_ENTRIES = 2**24  # of the directions that are held at once: 64 MiB in single precision


@checked
def rge(
    oracle: Oracle,
    num_directions: int,
    mu: float,
    generator: Generator,
    sampler: SamplerName = "gaussian",
    scheme: Scheme = "forward",
    failed: Failed = "keep",
    indices: Int[Tensor, " k"] | None = None,
    combine: Combine = "average",
) -> Estimate:
    """Estimate the gradient of a black box l at theta along q random directions.

        forward:  g = (1/q) sum_j [l(theta + mu u_j) - l(theta)] / mu  u_j
        central:  g = (1/q) sum_j [l(theta + mu u_j) - l(theta - mu u_j)] / (2 mu)  u_j

    with E[u u^T] = I for every sampler. (Chen et al., ICLR 2024, eq. 1.) With `indices` the
    directions are those of the k coordinates, zero elsewhere, and so is the estimate.

    With `combine="project"` it is the least-squares estimate from the same differences s_j:

        g = V^T (V V^T)^+ s,    the rows of V the directions

    That is the gradient, projected onto the directions. Nothing in their span is nearer to it. It
    is shorter by sqrt(q / d) or so, and exact where they are d independent ones.

    Bias of the average: O(mu^2) for both, none on a quadratic, since u and -u are as likely.
    Variance: about |grad l|^2 / q in every coordinate, whatever mu is, the gradient that of the
    coordinates in `indices`; the forward scheme adds one of order mu^2.
    Queries: forward q + 1, central 2 q, and the base where a side is lost. Randomness:
    `generator`, in float32 or in torch's default dtype; two calls with generators in the same
    state take the same directions, which a difference of two gradients (a Hessian-vector
    product) must have.

    Args:
        oracle: Answers l around its base point; see `zopde.contracts.Oracle`.
        num_directions: q >= 1. They are drawn and probed some at a time, so memory does not
            grow with q.
        mu: Finite-difference step; > 0. A probe moves every weight in `indices`, by about mu each.
        generator: Source of the directions; advanced by q draws.
        sampler: "gaussian", "sphere" (of radius sqrt(d)) or "rademacher"; see
            `zopde.zo.rge`.
        scheme: "forward" or "central".
        failed: What a probe does whose loss is not finite. "keep": nothing is finite then. "drop":
            it is left out, and q above is the number of the others; with the central scheme the
            side that is left makes a one-sided difference. Without any, every coordinate in
            `indices` is `unknown`.
        indices: (k,) integer coordinates, each at most once; None takes all.
        combine: "average" or "project"; for the latter all directions are in memory at once.

    Returns:
        `Estimate` with gradient (d,), the queries used, l(theta) for "forward", and
        standard_error (d,): the sample standard deviation of the q terms, over sqrt(q).
        With one direction, or a projection, there is none: None. `Estimate.interval` makes
        intervals of it.

    Raises:
        InputError: If q is no whole number >= 1, mu is not positive, a name is unknown, or an
            index is repeated or outside [0, d).

    Example:
        >>> import torch
        >>> from zopde import WeightOracle, rge
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.eye(2)
        >>> oracle = WeightOracle(net, lambda f, p: f(x.repeat(p, 1)).view(p, -1).sum(dim=1))
        >>> estimate = rge(oracle, 400, mu=1e-2, generator=torch.Generator().manual_seed(0))
        >>> bool(((estimate.gradient - 1).abs() < 4 * estimate.standard_error).all())
        True
    """
    check_count("num_directions", num_directions)
    check_positive("mu", mu)
    d = oracle.num_coordinates
    indices = torch.arange(d) if indices is None else check_indices(indices, d)
    indices = movable(oracle, indices)
    with one_gradient(oracle) as checks:
        base = oracle.base() if scheme == "forward" else None
        middle, num_failed = base, 0 if base is None else count_failed(base)
        terms, left = _Terms(), num_directions
        kept = list[tuple[Tensor, Tensor]]()  # directions and slopes, to be projected
        while left:
            count = min(left, max(1, _ENTRIES // max(d, 1)))
            left -= count
            drawn = SAMPLERS[sampler](count, len(indices), generator, torch.get_default_dtype())
            along = _among(drawn, indices, d)
            ahead = oracle.directions(along, mu)
            if base is None:
                behind = oracle.directions(along, -mu)
                slope, failed_here = (ahead - behind) / (2 * mu), count_failed(ahead)
                failed_here += count_failed(behind)
                if failed_here and failed == "drop":
                    middle = oracle.base() if middle is None else middle
                    slope = one_sided(ahead, behind, middle) / mu
            else:
                slope, failed_here = (ahead - base) / mu, count_failed(ahead)
            num_failed += failed_here
            if num_failed and failed == "drop":
                known = slope.isfinite()
                slope, along = slope[known], along[known.to(along.device)]
            if len(slope) and combine == "project":
                kept.append((along.to(slope.device), slope))
            elif len(slope):
                terms.add(slope[:, None] * along.to(slope.device))
    queries = (2 if scheme == "central" else 1) * num_directions + (middle is not None)
    if kept:
        rows, slopes = (torch.cat(parts) for parts in zip(*kept, strict=True))
        found = Estimate(combined(rows, slopes, combine), queries, base, None, num_failed)
        return replace(found, directions=len(slopes), checking=checks.queries)
    if not terms.count:
        nothing = torch.zeros(d, dtype=ahead.dtype, device=ahead.device)
        unknown = _among(torch.ones(1, len(indices), dtype=torch.bool), indices, d)[0]
        return Estimate(nothing, queries, base, None, num_failed, unknown, checking=checks.queries)
    found = Estimate(terms.mean, queries, base, terms.standard_error(), num_failed)
    return replace(found, directions=terms.count, checking=checks.queries)


def _among(drawn: Tensor, indices: Tensor, d: int) -> Tensor:
    """Vectors of some coordinates as vectors of all, zero elsewhere."""
    if len(indices) == d and bool((indices == torch.arange(d)).all()):
        return drawn
    whole = drawn.new_zeros(len(drawn), d)
    whole[:, indices.to(drawn.device)] = drawn
    return whole


@final
class _Terms:
    """Mean and spread of terms that come some at a time (Chan, Golub and LeVeque 1983, eq. 2.1)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self._squares = torch.zeros(())  # sum of squared deviations from the mean

    def add(self, terms: Float[Tensor, "count d"]) -> None:
        old, new = self.count, len(terms)
        variance, mean = torch.var_mean(terms, dim=0, correction=0)
        self.count = old + new
        if not old:
            self.mean, self._squares = mean, variance * new
            return
        shift = mean - self.mean
        self.mean = self.mean + shift * (new / self.count)
        self._squares = self._squares + variance * new + shift.square() * (old * new / self.count)

    def standard_error(self) -> Tensor | None:
        if self.count < 2:
            return None
        return (self._squares / (self.count - 1) / self.count).sqrt()
