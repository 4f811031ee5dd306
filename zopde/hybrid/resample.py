"""From the fine grid to the coarse one."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from zopde.errors import InputError


def downsample(
    fine: Float[Tensor, "batch channel *fine"], shape: tuple[int, ...]
) -> Float[Tensor, "batch channel *coarse"]:
    """Mean over the fine cells that make up each coarse cell.

        coarse[I] = (1 / r^n) sum over the r^n fine cells i inside I of fine[i]

    It keeps the mean of every channel, and commutes with itself: 4 x at once equals 2 x twice.

    Args:
        fine: (batch, channel, *fine), cell-centred values.
        shape: Cells of the coarse grid; each must divide the fine count.

    Returns:
        (batch, channel, *shape), the same dtype.

    Raises:
        InputError: If a coarse count does not divide the fine one.
    """
    space = tuple(fine.shape[2:])
    if len(space) != len(shape) or any(f % c for f, c in zip(space, shape, strict=True)):
        raise InputError("downsample", got=f"{space} -> {shape}", expected="divisors, cell by cell")
    split: list[int] = []
    for n_fine, n_coarse in zip(space, shape, strict=True):
        split += [n_coarse, n_fine // n_coarse]
    blocks = fine.reshape(*fine.shape[:2], *split)
    return blocks.mean(dim=tuple(range(3, 3 + 2 * len(shape), 2)))
