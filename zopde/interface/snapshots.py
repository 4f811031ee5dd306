"""Which states of the data stand for the others."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.checks import check_count
from zopde.errors import InputError


def farthest_points(
    points: Float[Tensor, "points d"], count: int, groups: Int[Tensor, " points"] | None = None
) -> Int[Tensor, " count"]:
    """Points that leave no other far away, chosen one by one.

        p_1 = the nearest to the mean,   p_k = argmax_p min_{i < k} |p - p_i|

    Without groups, the largest distance to a chosen point is at most twice the least that
    `count` points can reach (Gonzalez 1985, theorem 2.2). With them, p_k is of a group of which
    the fewest points were chosen before, so that each gets its share. No randomness.

    Args:
        points: (points, d).
        count: How many to choose, >= 1 and at most as many as there are.
        groups: (points,), numbers of the groups from 0 on, such as one per parameter value.

    Returns:
        (count,), their numbers, in the order of the choice: fewer are a beginning of more.

    Raises:
        InputError: If there are not so many points.
    """
    check_count("snapshots", count)
    if count > len(points):
        raise InputError("snapshots", got=count, expected=f"at most the {len(points)} states")
    members = torch.zeros(len(points), dtype=torch.long) if groups is None else groups.cpu()
    left = torch.bincount(members).tolist()
    used = [0] * len(left)
    nearest = points.new_full((len(points),), float("inf")).cpu()
    next_one = int((points - points.mean(dim=0)).square().sum(dim=1).argmin())
    chosen: list[int] = []
    while True:
        chosen.append(next_one)
        if len(chosen) == count:
            return torch.tensor(chosen)
        group = int(members[next_one])
        used[group], left[group] = used[group] + 1, left[group] - 1
        away = (points - points[next_one]).square().sum(dim=1).cpu()
        nearest = torch.minimum(nearest, away)
        fewest = min(u for u, rest in zip(used, left, strict=True) if rest)
        due = torch.tensor([u == fewest and r > 0 for u, r in zip(used, left, strict=True)])
        candidates = due[members]
        candidates[chosen] = False
        next_one = int(torch.where(candidates, nearest, -1.0).argmax())
