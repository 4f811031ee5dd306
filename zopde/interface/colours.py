"""Colours of cells: those of one colour are so far apart that they can share a probe."""

from __future__ import annotations

from itertools import pairwise, product
from math import gcd, prod

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zopde.errors import InputError
from zopde.validate import check_count


def lattice_colours(
    shape: tuple[int, ...],
    radius: tuple[int, ...],
    periodic: bool | tuple[bool, ...],
    fewest: bool = True,
) -> Int[Tensor, "*space"]:
    """Few colours such that boxes of `radius` around two cells of one colour never overlap.

        colour(x) = (a_1 x_1 + ... + a_n x_n) mod m      with the smallest m that separates, or
        colour(x) = the pair, triple, ... of the colours along each axis      where none is smaller

    Two cells conflict where they are at most 2 radius apart along every axis. Around a periodic
    axis (`periodic` is one for all, or one for each) the linear form has to close: m divides
    a_d n_d. 32 x 32 cells with radius 2 take 32 colours that way, 36 by the axes alone; 25 is the
    least that any colouring needs. The result has the shape of the grid, and colours 0, 1, ...,
    each in use. Without `fewest` only the axes are tried, which takes no time.

    Example:
        >>> lattice_colours((6,), (1,), periodic=True).tolist()
        [0, 1, 2, 0, 1, 2]
    """
    for n in shape:
        check_count("cells along an axis", n)
    if len(radius) != len(shape) or any(type(r) is not int or r < 0 for r in radius):
        expected = f"{len(shape)} whole numbers >= 0, one for each axis"
        raise InputError("radius", got=radius, expected=expected)
    around = (periodic,) * len(shape) if isinstance(periodic, bool) else periodic
    axes = [_along(n, 2 * r + 1, p) for n, r, p in zip(shape, radius, around, strict=True)]
    counts = [max(colours) + 1 for colours in axes]
    cells = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    factors = _linear(shape, radius, around, prod(counts)) if fewest else ()
    number = torch.zeros(shape, dtype=torch.long)
    if factors:
        *a, m = factors
        for along, factor in zip(cells, a, strict=True):
            number = (number + factor * along) % m
    else:
        for along, colours, count in zip(cells, axes, counts, strict=True):
            number = number * count + torch.tensor(colours)[along]
    in_use: Tensor = torch.unique(number, return_inverse=True)[1]
    return in_use


def in_fluid(
    colours: Int[Tensor, "*space"], fluid: Bool[Tensor, "*space"] | None
) -> Int[Tensor, "*space"]:
    """Colours 0, 1, ... of the cells with fluid in them, each in use; -1 for the others."""
    if fluid is None:
        return colours
    found = torch.full_like(colours, -1)
    found[fluid] = torch.unique(colours[fluid], return_inverse=True)[1]
    return found


def _along(n: int, apart: int, periodic: bool) -> list[int]:
    """Colours along one axis; equal ones are at least `apart` cells from each other."""
    if not periodic:
        return [i % apart for i in range(n)]
    arcs = max(1, n // apart)
    ends = [round(k * n / arcs) for k in range(arcs + 1)]
    return [i for first, end in pairwise(ends) for i in range(end - first)]


def _linear(
    shape: tuple[int, ...], radius: tuple[int, ...], periodic: tuple[bool, ...], most: int
) -> tuple[int, ...]:
    """(a_1, ..., a_n, m) of a linear colouring with m < most; empty if there is none."""
    near = []  # along each axis, the distances at which two boxes overlap
    for n, r, closed in zip(shape, radius, periodic, strict=True):
        width = min(2 * r, n - 1)
        ring = [x for x in range(n) if min(x, n - x) <= width]
        near.append(ring if closed else list(range(-width, width + 1)))
    offsets = torch.tensor([o for o in product(*near) if any(o)]).view(-1, len(shape))
    least = prod(min(2 * r + 1, n) for n, r in zip(shape, radius, strict=True))
    for m in range(least, most):
        steps = [m // gcd(m, n) if p else 1 for n, p in zip(shape, periodic, strict=True)]
        # The last factor is a unit but for the closing; the others are tried out.
        choices = [torch.arange(0, m, step) for step in steps[:-1]] + [torch.tensor(steps[-1:])]
        factors = torch.cartesian_prod(*choices).view(-1, len(shape))
        separates = ((factors @ offsets.T) % m != 0).all(dim=1)
        if separates.any():
            return (*factors[separates][0].tolist(), m)
    return ()
