"""A ladder of steps: at which one finite differences err least, and how fast a remainder falls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import Oracle
from zopde.errors import InputError, SolverError

_RATIO = math.sqrt(10)
_FIT = 4  # points of the ladder that make a rate


@dataclass(frozen=True)
class SweepPoint:
    """Holds the relative error |g - reference| / |reference| at one step, NaN where l failed.

    Both in units of the scale, so that no coordinate is hidden by another's unit.
    """

    mu: float  # the step
    forward: float  # error of the forward scheme
    central: float  # error of the central scheme


@dataclass(frozen=True)
class Sweep:
    """Holds how far finite differences were off at every step of a ladder."""

    points: tuple[SweepPoint, ...]  # from the smallest step to the largest
    reference: Float[Tensor, " k"]  # (k,), what the errors were measured against
    reference_mu: float | None  # where it was measured; None where it was given
    queries: int  # evaluations it took

    def best(self, scheme: str) -> SweepPoint:
        """Find the point with the least error in a scheme."""
        return min(self.points, key=lambda p: _or_inf(getattr(p, scheme)))


def ladder(dtype: torch.dtype) -> list[float]:
    """List two steps per decade, from where round-off rules in this dtype to 0.1."""
    lowest = round(2 * math.log10(10 * torch.finfo(dtype).eps))
    return [10 ** (k / 2) for k in range(max(lowest, -18), -1)]


def sweep_mu(
    oracle: Oracle,
    indices: Int[Tensor, " k"],
    mus: list[float],
    scale: Float[Tensor, " k"],
    gradient: Float[Tensor, " k"] | None = None,
) -> Sweep:
    """Compare forward and central differences at every mu with the best that is known.

    Without a gradient the reference is the Richardson extrapolation
    R(h) = [r^2 D(h) - D(r h)] / (r^2 - 1) of central differences D, free of their error of
    order h^2, at the h where R changes least from one h to the next: above round-off and below
    the terms of order h^4. Steps at which no loss moves at all do not count. Queries: 2 k per
    mu, and one.

    Args:
        oracle: What evaluates l.
        indices: (k,) coordinates.
        mus: Steps in a constant ratio, rising.
        scale: (k,), probe i moves by mu * scale_i.
        gradient: (k,), the exact derivatives, where known.

    Raises:
        InputError: If l is finite at no step.
    """
    base = oracle.base().double().cpu()
    scale = scale.double().cpu()
    forward, central = [], []
    for mu in mus:
        ahead, behind = (_losses_at(oracle, indices, s * scale) for s in (mu, -mu))
        forward.append((ahead - base) / mu)  # in units of the scale, in which all are alike
        central.append((ahead - behind) / (2 * mu))
    if gradient is None:
        best, reference = _richardson(central)
        reference_mu = mus[best]
    else:
        reference_mu, reference = None, gradient.double().cpu() * scale

    def error(slopes: Tensor) -> float:
        return float((slopes - reference).norm() / reference.norm())

    points = tuple(
        SweepPoint(mu, error(f), error(c)) for mu, f, c in zip(mus, forward, central, strict=True)
    )
    return Sweep(points, reference / scale, reference_mu, 2 * len(mus) * len(indices) + 1)


def _losses_at(oracle: Oracle, indices: Tensor, steps: Tensor) -> Tensor:
    try:
        return oracle.coordinates(indices, steps).double().cpu()
    except SolverError:  # a step too far for the solver is a step with a useless loss
        return torch.full((len(indices),), torch.nan, dtype=torch.float64)


def _richardson(central: list[Tensor]) -> tuple[int, Tensor]:
    square = _RATIO**2
    better = [(square * near - far) / (square - 1) for near, far in pairwise(central)]
    changes = [_or_inf(float((a - b).norm())) for a, b in pairwise(better)]
    # Steps so small that few digits hide them agree perfectly, on nothing.
    moves = [bool(a.any() and b.any()) for a, b in pairwise(better)]
    if any(moves):
        changes = [c if moved else math.inf for c, moved in zip(changes, moves, strict=True)]
    best = min(range(len(changes)), key=changes.__getitem__)
    if math.isinf(changes[best]):
        got = "no finite loss at any mu"
        raise InputError("objective", got=got, expected="finite losses near theta")
    return best, better[best]


def _or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def taylor_rate(
    oracle: Oracle,
    direction: Float[Tensor, " d"],
    slope: float,
    steps: list[float],
    noise: float,
    slope_error: float = 0.0,
) -> float | None:
    """Measure how fast |l(theta + h v) - l(theta) - h g . v| falls with h.

    It is 2 for the gradient of a smooth l, and 1 for any other g: the error in g then rules at
    small h. The rate is the slope of a straight line through the logarithms at the smallest
    steps whose remainder is ten times its noise.

    Args:
        oracle: What evaluates l; one query per step and one more.
        direction: (d,), v.
        slope: g . v.
        steps: h, rising.
        noise: Standard deviation of l.
        slope_error: Standard deviation of `slope`.

    Returns:
        The rate; None where fewer than three remainders rise above the noise (l is linear
        along v, as far as can be told).
    """
    lengths = torch.tensor([0.0, *steps], dtype=torch.float64)
    losses = _losses_along(oracle, lengths[:, None].to(direction) * direction)
    remainder = (losses[1:] - losses[0] - lengths[1:] * slope).abs().tolist()
    above = [
        (math.log(h), math.log(r))
        for h, r in zip(steps, remainder, strict=True)
        if math.isfinite(r) and r > 10 * math.hypot(math.sqrt(2) * noise, h * slope_error)
    ][:_FIT]
    if len(above) < 3:
        return None
    x, y = torch.tensor(above, dtype=torch.float64).T
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def _losses_along(oracle: Oracle, rows: Tensor) -> Tensor:
    try:
        return oracle.directions(rows, 1.0).double().cpu()
    except SolverError:
        if len(rows) == 1:  # a step too far for the solver is left out
            return torch.full((1,), torch.nan, dtype=torch.float64)
        return torch.cat([_losses_along(oracle, row) for row in rows.split(1)])
