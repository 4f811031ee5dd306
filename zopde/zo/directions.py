"""Random directions u with E[u u^T] = I, so that no estimate needs a further factor."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

SamplerName = Literal["gaussian", "sphere", "rademacher"]

Sampler = Callable[[int, int, Generator, torch.dtype], Float[Tensor, "count d"]]
"""(count, d, generator, dtype) -> directions, on the generator's device.

Each direction is a draw of its own: drawing 3 and then 2 gives the same five as drawing 5.
(`torch.randn` of a whole block does not: it works in groups of sixteen.)
"""


def gaussian(
    count: int, d: int, generator: Generator, dtype: torch.dtype
) -> Float[Tensor, "count d"]:
    """u ~ N(0, I): every entry standard normal.

    Args:
        count: Directions to draw.
        d: Their length.
        generator: Source of the numbers.
        dtype: A floating-point dtype.
    """
    found = torch.empty(count, d, dtype=dtype, device=generator.device)
    for row in found:
        row.normal_(generator=generator)
    return found


def sphere(
    count: int, d: int, generator: Generator, dtype: torch.dtype
) -> Float[Tensor, "count d"]:
    """u = sqrt(d) w, w uniform on the unit sphere, so that |u|^2 = d always.

    DeepZero's and others' "unit sphere" form asks along w and multiplies the estimate by d; here
    the factor is in u, and a step mu has the same length as with the other samplers.

    Args:
        count: Directions to draw.
        d: Their length.
        generator: Source of the numbers.
        dtype: A floating-point dtype.
    """
    found = gaussian(count, d, generator, dtype)
    return found.mul_(sqrt(d) / found.norm(dim=1, keepdim=True))


def rademacher(
    count: int, d: int, generator: Generator, dtype: torch.dtype
) -> Float[Tensor, "count d"]:
    """u with entries -1 and +1, each with chance one half.

    The least variance of all u with independent entries and E[u u^T] = I.

    Args:
        count: Directions to draw.
        d: Their length.
        generator: Source of the numbers.
        dtype: A floating-point dtype.
    """
    found = torch.empty(count, d, dtype=dtype, device=generator.device)
    for row in found:
        row.random_(0, 2, generator=generator)
    return found.mul_(2).sub_(1)


SAMPLERS: dict[str, Sampler] = {
    "gaussian": gaussian,
    "sphere": sphere,
    "rademacher": rademacher,
}
