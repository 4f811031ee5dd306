"""Which states of the data stand for the others."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.checks import check_count
from zopde.errors import InputError


def farthest_points(points: Float[Tensor, "points d"], count: int) -> Int[Tensor, " count"]:
    """Points that leave no other far away, chosen one by one.

        p_1 = the nearest to the mean,   p_k = argmax_p min_{i < k} |p - p_i|

    The largest distance to a chosen point is at most twice the least that `count` points can
    reach (Gonzalez 1985, theorem 2.2). No randomness.

    Args:
        points: (points, d).
        count: How many to choose, >= 1 and at most as many as there are.

    Returns:
        (count,), their numbers, in the order of the choice: fewer are a beginning of more.

    Raises:
        InputError: If there are not so many points.
    """
    check_count("snapshots", count)
    if count > len(points):
        raise InputError("snapshots", got=count, expected=f"at most the {len(points)} states")
    chosen = [int((points - points.mean(dim=0)).square().sum(dim=1).argmin())]
    nearest = points.new_full((len(points),), float("inf"))
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(dim=1))
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)
