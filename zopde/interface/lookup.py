"""Which Jacobians of a bank stand for that of a state, and with what weight.

Which states of the data stand for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import Forcing, State
from zopde.errors import InputError
from zopde.interface.bank import Bank
from zopde.validate import check_count

Lookup = Literal["nearest", "mean", "interpolated", "fitted", "local"]
Weights = Float[Tensor, "snapshots batch cell"]
_LEAST = 1e-6  # of a distance, so that a state right at a snapshot gives no infinity
_RIDGE = 1e-2  # of the spread of weights, against that of states in standard deviations
_LEAST_LOCAL = 1e-3  # of a squared one, in standard deviations: below, states are the same


def nearest(bank: Bank, state: State, forcing: Forcing | None) -> Weights:
    """w_k = 1 for k = argmin |u - u_k|, else 0."""
    away = bank.distances(state, forcing)
    weights: Tensor = torch.nn.functional.one_hot(away.argmin(dim=1), away.shape[1]).to(away)
    return weights.T[..., None]


def mean(bank: Bank, state: State, forcing: Forcing | None) -> Weights:  # noqa: ARG001
    """w_k = 1 / K."""
    return state.new_full((len(bank), len(state), 1), 1 / len(bank))


def interpolated(bank: Bank, state: State, forcing: Forcing | None) -> Weights:
    """w_k = |u - u_k|^-2 / sum_i |u - u_i|^-2."""
    away = bank.distances(state, forcing)
    least = away.min(dim=1, keepdim=True).values.clamp_min(_LEAST)
    weights = (least / away.clamp_min(_LEAST)).square()
    return (weights / weights.sum(dim=1, keepdim=True)).T[..., None]


def fitted(bank: Bank, state: State, forcing: Forcing | None) -> Weights:
    """The weights that put the snapshots together to the state, as far as they can.

        min_w |u - sum_k w_k u_k|^2 + 0.01 |w - 1 / K|^2,    sum_k w_k = 1

    (|.|^2 a mean over entries, in standard deviations.) Some may be negative. Exact where the
    Jacobian is affine in the state (a quadratic step) and the snapshots span the state.
    """
    count = len(bank)
    keys = bank.keys.to(state).flatten(1)
    middle = keys.mean(dim=0)
    spread = keys - middle
    away = bank.key(state, forcing).flatten(1) - middle
    overlaps = spread @ spread.T / keys.shape[1] + _RIDGE * torch.eye(count).to(keys)
    found: Tensor = torch.linalg.solve(overlaps, spread @ away.T / keys.shape[1])
    # The spreads add up to zero, so do these: taking their mean away is round-off's alone.
    return (1 / count + found - found.mean(dim=0))[..., None]


def local(bank: Bank, state: State, forcing: Forcing | None) -> Weights:
    """Cell by cell: w_k(i) = |u - u_k|_i^-4 / sum_l |u - u_l|_i^-4.

    |.|_i is the distance of the states in the cells around i alone. The weights go with the cell
    of the varied input: a step that looks around before it acts on the whole (an advection
    before a projection) has a Jacobian whose columns depend on the state near their cell.
    """
    squares = bank.differences(state, forcing).square().mean(dim=2)
    for axis in range(2, squares.dim()):
        squares = _three_cells(squares, axis, bank.periodic)
    weights = (squares.flatten(2) + _LEAST_LOCAL) ** -2
    return weights / weights.sum(dim=0)


LOOKUPS: dict[str, Callable[[Bank, State, Forcing | None], Weights]] = {
    "nearest": nearest,
    "mean": mean,
    "interpolated": interpolated,
    "fitted": fitted,
    "local": local,
}


def _three_cells(values: Tensor, axis: int, periodic: bool) -> Tensor:
    """Mean of every cell and its two neighbours; beyond an end, of the last cell again."""
    n = values.shape[axis]
    place = torch.arange(-1, n + 1, device=values.device)
    place = place % n if periodic else place.clamp(0, n - 1)
    return values.index_select(axis, place).unfold(axis, 3, 1).mean(dim=-1)


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
