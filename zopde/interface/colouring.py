"""Colours for the cells of a lattice: cells of one colour are too far apart to meet."""

from __future__ import annotations

from itertools import pairwise, product
from math import gcd, prod

import torch
from jaxtyping import Int
from torch import Tensor

from zopde.errors import InputError
from zopde.validate import check_count


def lattice_colours(
    shape: tuple[int, ...], radius: tuple[int, ...], periodic: bool
) -> Int[Tensor, "*space"]:
    """Few colours such that boxes of `radius` around two cells of one colour never overlap.

        colour(x) = (a_1 x_1 + ... + a_n x_n) mod m      with the smallest m that separates, or
        colour(x) = the pair, triple, ... of the colours along each axis      where none is smaller

    Two cells conflict where they are at most 2 radius apart along every axis. On a periodic grid
    the linear form has to close around each axis: m divides a_d n_d. 32 x 32 cells with radius 2
    take 32 colours that way, 36 by the axes alone; 25 is the least that any colouring needs.

    Args:
        shape: Cells along each axis, >= 1.
        radius: Along each axis, >= 0.
        periodic: Whether every axis closes upon itself.

    Returns:
        shape, colours 0, 1, ..., each in use.

    Raises:
        InputError: If the lengths differ, or a number is out of range.

    Example:
        >>> lattice_colours((6,), (1,), periodic=True).tolist()
        [0, 1, 2, 0, 1, 2]
    """
    _check(shape, radius)
    axes = [_along(n, 2 * r + 1, periodic) for n, r in zip(shape, radius, strict=True)]
    counts = [max(colours) + 1 for colours in axes]
    places = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    factors = _linear(shape, radius, periodic, prod(counts))
    if factors:
        *a, m = factors
        return _in_use(sum((x * k for x, k in zip(places, a, strict=True)), torch.tensor(0)) % m)
    number = torch.tensor(0)
    for colours, count, place in zip(axes, counts, places, strict=True):
        number = number * count + torch.tensor(colours)[place]
    return _in_use(number)


def _along(n: int, apart: int, periodic: bool) -> list[int]:
    """Colours along one axis; equal ones are at least `apart` cells from each other."""
    if not periodic:
        return [i % apart for i in range(n)]
    arcs = max(1, n // apart)
    ends = [round(k * n / arcs) for k in range(arcs + 1)]
    return [i for a, b in pairwise(ends) for i in range(b - a)]


def _linear(
    shape: tuple[int, ...], radius: tuple[int, ...], periodic: bool, most: int
) -> tuple[int, ...]:
    """(a_1, ..., a_n, m) of a linear colouring with m < most; empty if there is none."""
    spans = [
        range(n) if periodic else range(-min(2 * r, n - 1), min(2 * r, n - 1) + 1)
        for n, r in zip(shape, radius, strict=True)
    ]
    near = [
        [x for x in span if (min(x, n - x) if periodic else abs(x)) <= 2 * r]
        for span, n, r in zip(spans, shape, radius, strict=True)
    ]
    offsets = torch.tensor([o for o in product(*near) if any(o)]).view(-1, len(shape))
    least = prod(min(2 * r + 1, n) for n, r in zip(shape, radius, strict=True))
    for m in range(least, most):
        steps = [m // gcd(m, n) if periodic else 1 for n in shape]
        # The last factor is a unit but for the closing; the others are tried out.
        choices = [range(0, m, step) for step in steps[:-1]] + [[steps[-1]]]
        factors = torch.cartesian_prod(*(torch.tensor(list(c)) for c in choices))
        factors = factors.view(-1, len(shape))
        fine = ((factors @ offsets.T) % m != 0).all(dim=1).nonzero()
        if len(fine):
            return (*factors[int(fine[0])].tolist(), m)
    return ()


def _in_use(colours: Tensor) -> Tensor:
    inverse: Tensor = torch.unique(colours, return_inverse=True)[1]
    return inverse


def _check(shape: tuple[int, ...], radius: tuple[int, ...]) -> None:
    for n in shape:
        check_count("cells along an axis", n)
    if len(radius) != len(shape) or any(type(r) is not int or r < 0 for r in radius):
        raise InputError(
            "radius", got=radius, expected=f"{len(shape)} whole numbers >= 0, one for each axis"
        )
