"""An evolution strategy: all weights move at once, each matrix of them by one of low rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod, sqrt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from zopde.contracts import Oracle, movable, one_gradient
from zopde.errors import InputError
from zopde.validate import check_count, checked
from zopde.zo.cge import Failed, check_mu, count_failed
from zopde.zo.estimate import Estimate

Shaping = Literal["standard", "rank", "none"]


def low_rank(
    count: int,
    shapes: Sequence[Sequence[int]],
    rank: int,
    generator: Generator,
    dtype: torch.dtype,
) -> Float[Tensor, "count d"]:
    """Draw random moves u of all weights, those of each matrix of a low rank.

        E = A B^T / sqrt(r),    A (m, r) and B (n, r) standard normal

    for each tensor of two axes or more, which counts as a matrix of m = shape[0] rows and n
    columns; so does a convolution's kernel. Vectors, and matrices with min(m, n) <= r, get standard
    normal entries. In both cases E[u u^T] = I, so that no factor is needed. (EGGROLL, arXiv
    2511.16652.) Drawing 3 and then 2 gives the same five as drawing 5.

    Args:
        count: How many moves.
        shapes: Of the tensors, in their order.
        rank: r >= 1.
        generator: Source of all draws.
        dtype: Of the result.
    """
    moves = torch.empty(count, sum(map(prod, shapes)), dtype=dtype, device=generator.device)
    for move in moves:
        for part, shape in zip(move.split([*map(prod, shapes)]), shapes, strict=True):
            rows = shape[0] if len(shape) > 1 else 1
            columns = part.numel() // max(rows, 1)
            if rank >= min(rows, columns):
                part.normal_(generator=generator)
                continue
            left, right = (
                part.new_empty(n, rank).normal_(generator=generator) for n in (rows, columns)
            )
            part.copy_((left @ right.T / sqrt(rank)).flatten())
    return moves


@checked
def es(
    oracle: Oracle,
    shapes: Sequence[Sequence[int]],
    members: int,
    sigma: float | Float[Tensor, " d"],
    generator: Generator,
    rank: int = 1,
    shaping: Shaping = "standard",
    failed: Failed = "keep",
) -> Estimate:
    """Estimate the gradient of a black box l at theta from pairs of members, theta +- sigma u.

        g = (1/q) sum_j [s(l(theta + sigma u_j)) - s(l(theta - sigma u_j))] / (2 sigma)  u_j

    with q = members / 2 moves u_j by `low_rank`, and s the shaping of all members' losses. With
    the shaping "none", s(l) = l, it is the central estimate of `rge` along other directions: its
    bias is O(sigma^2), none on a quadratic. The others make it independent of the size of
    the loss, for an optimiser that is not: "standard" subtracts the members' mean and divides by
    their standard deviation, "rank" puts ranks in [-1/2, 1/2] in the losses' place, the
    mean rank where losses are equal. (Antithetic pairs, ranks: Salimans et al. 2017, arXiv
    1703.03864; low rank: EGGROLL, arXiv 2511.16652. Written from their formulas.)

    All members, and theta itself, are one call of `oracle.directions`. Queries: members + 1. It
    fails like every random direction: the squared error is about d / q times the squared gradient.

    Args:
        oracle: Answers l around its base point; see `zopde.contracts.Oracle`.
        shapes: The shapes of the weights' tensors, in the order of the coordinates; a complex
            tensor has a last axis of 2.
        members: An even number >= 2. Memory grows with it: members * d numbers.
        sigma: How far they move; > 0, one number or one for each coordinate. Then g is divided
            by that of the coordinate.
        generator: Source of the moves; the same state gives the same moves.
        rank: r of each matrix's move.
        shaping: "standard", "rank" or "none".
        failed: What a member does whose loss is not finite. "keep": nothing is finite then.
            "drop": its pair is left out.

    Returns:
        `Estimate` with gradient (d,), the queries, and l(theta).

    Raises:
        InputError: If the members are not even, sigma is not positive, a name is unknown, or the
            shapes have another number of weights than the oracle.

    Example:
        >>> import torch
        >>> from zopde import WeightOracle
        >>> from zopde.zo import es
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.eye(2)
        >>> oracle = WeightOracle(net, lambda f, p: f(x.repeat(p, 1)).view(p, -1).sum(dim=1))
        >>> draw = torch.Generator().manual_seed(0)
        >>> estimate = es(oracle, [net.weight.shape], 800, 1e-2, draw, shaping="none")
        >>> bool(((estimate.gradient - 1).abs() < 0.3).all())
        True
    """
    d = oracle.num_coordinates
    _check(members, rank, shapes, d)
    check_mu(sigma, d, "sigma")
    with one_gradient(oracle) as checks:
        moves = low_rank(members // 2, shapes, rank, generator, torch.get_default_dtype())
        moves = moves * torch.zeros(d).index_fill_(0, movable(oracle, torch.arange(d)).cpu(), 1.0)
        sizes = torch.as_tensor(sigma, dtype=moves.dtype, device=moves.device).expand(d)
        far = moves * sizes
        losses = oracle.directions(torch.cat([torch.zeros_like(far[:1]), far, -far]), 1.0)
    base, pairs = losses[0], losses[1:].view(2, -1)
    found = Estimate(pairs.new_zeros(d), members + 1, base, failed=count_failed(losses))
    found = replace(found, checking=checks.queries)
    known = pairs.isfinite().all(dim=0)
    if failed == "drop":
        pairs, moves = pairs[:, known], moves[known.to(moves.device)]
        if not pairs.numel():
            return replace(found, unknown=torch.ones(d, dtype=torch.bool))
    elif not bool(known.all()):
        return replace(found, gradient=pairs.new_full((d,), torch.nan))
    ahead, behind = shaped(pairs, shaping)
    slopes, moves, sizes = (ahead - behind) / 2, moves.to(pairs), sizes.to(pairs)
    return replace(found, gradient=slopes @ moves / len(slopes) / sizes)


def shaped(losses: Tensor, shaping: Shaping) -> Tensor:
    """The losses of all members as their weights; alike where the losses are."""
    if shaping == "none":
        return losses
    if shaping == "standard":
        spread = losses.std(correction=0)
        return (losses - losses.mean()) / torch.where(spread > 0, spread, 1)
    flat = losses.flatten()
    below = (flat[:, None] > flat).sum(dim=1) - (flat[:, None] < flat).sum(dim=1)
    return (below / (2 * (len(flat) - 1))).to(losses).view_as(losses)


def _check(members: int, rank: int, shapes: Sequence[Sequence[int]], d: int) -> None:
    check_count("members", members)
    check_count("rank", rank)
    if members % 2:
        raise InputError("members", got=members, expected="an even number: they are pairs")
    if (total := sum(map(prod, shapes))) != d:
        raise InputError("shapes", got=f"{total} weights", expected=f"the oracle's {d}")
