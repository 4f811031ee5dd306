"""How far an objective's losses are from those of a smooth function."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial, sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import Oracle
from zopde.zo.cge import step_of

_REPEATS, _POINTS, _COORDINATES = 4, 8, 3


@dataclass(frozen=True)
class Noise:
    """Says how noisy a loss l is: standard deviations, in the units of l."""

    repeated: float  # of l(theta) evaluated again and again; 0 for a deterministic objective
    nearby: float  # of l about a smooth curve at nearby theta: round-off, a solver's tolerance
    # The mu at which a probe typically moves l by as much as its noise; a smaller one measures
    # mostly noise. None where no probe moves l at all
    floor: float | None
    queries: int  # evaluations it took

    @property
    def level(self) -> float:
        """The larger of the two is the noise that counts."""
        return max(self.repeated, self.nearby)


def measure_noise(
    oracle: Oracle, indices: Int[Tensor, " k"], slopes: Float[Tensor, " k"], step: float | Tensor
) -> Noise:
    """Repeat l(theta), and evaluate l at 8 equal steps between theta and theta + step_i e_i.

    Along a coordinate the noise is read from the differences of order j of the 9 losses,
    which a smooth function does not have and noise has with variance (2j)! / (j!)^2 sigma^2.
    (More and Wild 2011, "Estimating computational noise", eq. 2.3 and their algorithm.)

    Args:
        oracle: What evaluates l.
        indices: (k,) coordinates; a few of them, well apart, are used.
        slopes: (k,), dl/d(step along coordinate i) per unit of mu, for the floor.
        step: The longest, a number or one for each coordinate of theta.
    """
    base = torch.stack([oracle.base() for _ in range(_REPEATS)]).double().cpu()
    few = indices[torch.linspace(0, len(indices) - 1, min(_COORDINATES, len(indices))).long()]
    steps = step_of(step, few)
    line = [oracle.coordinates(few, steps * (j / _POINTS)) for j in range(1, _POINTS + 1)]
    losses = torch.stack([base[:1].expand(len(few)), *(row.double().cpu() for row in line)])
    nearby = torch.tensor([_noise_of(losses[:, i]) for i in range(len(few))])
    repeated, level = float(base.std()), float(nearby.square().mean().sqrt())
    typical = float(slopes.double().square().mean().sqrt())
    floor = sqrt(2) * max(repeated, level) / typical if typical > 0 else None
    return Noise(repeated, level, floor, _REPEATS + _POINTS * len(few))


def _noise_of(losses: Tensor) -> float:
    """The noise in equally spaced losses: the first order from which the estimates agree."""
    levels, changes = [], []
    differences = losses
    for order in range(1, len(losses) - 1):
        differences = differences.diff()
        share = factorial(order) ** 2 / factorial(2 * order)
        levels.append(sqrt(share * float(differences.square().mean())))
        changes.append(bool((differences > 0).any() and (differences < 0).any()))
    for i in range(len(levels) - 2):
        near = levels[i : i + 3]
        if changes[i] and max(near) <= 4 * min(near):
            return levels[i]
    return min(levels)  # no order is free of the curve: noise is at most this
