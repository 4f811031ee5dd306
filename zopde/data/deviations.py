"""What the numbers of a channel vary by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Domain
from zopde.data.clock import is_clock
from zopde.errors import InputError

_ROUNDING = 1e-6  # of a channel's size: what varies less is constant


def deviations(
    grid: Domain, values: Tensor, names: Sequence[str] = ()
) -> Float[Tensor, " channel"]:
    """Standard deviation of every channel over all that was measured in the fluid.

    Args:
        grid: Where the values live.
        values: (simulation, time, channel, *space); NaN where nothing was measured.
        names: Of the channels, where some may be clocks; see `zopde.data.clock_channels`.

    Returns:
        Of a constant channel its size, and 1 of one that is zero. The size of a clock is 1.

    Raises:
        InputError: If fewer than two numbers of a channel were measured.
    """
    deviation, size = _spread(grid, values, names)
    constant = deviation <= _ROUNDING * size
    return torch.where(constant, torch.where(size > 0, size, 1.0), deviation)


def constant_channels(grid: Domain, values: Tensor, names: Sequence[str]) -> list[str]:
    """Names of the channels that vary by round-off alone; arguments as of `deviations`."""
    deviation, size = _spread(grid, values, names)
    constant = (deviation <= _ROUNDING * size).tolist()
    return [name for name, same in zip(names, constant, strict=True) if same]


def _spread(grid: Domain, values: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(channel,), the deviation and the size of every channel."""
    per_channel = grid.fluid_values(values).transpose(0, 2).flatten(1)
    if bool(per_channel.isnan().any()):
        there = [row[~row.isnan()] for row in per_channel]
        for name, row in zip(grid.channels, there, strict=True):
            if len(row) < 2:
                got, expected = f"{len(row)} measured numbers to learn from", "two at least"
                raise InputError(f"data {name!r}", got=got, expected=expected)
        deviation = torch.stack([row.std() for row in there])
        size = torch.stack([row.square().mean().sqrt() for row in there])
    else:
        deviation, size = per_channel.std(dim=1), per_channel.square().mean(dim=1).sqrt()
    for channel, name in enumerate(names):
        if is_clock(name):
            size[channel] = 1.0  # also of a sine that is always taken at its zeros
    return deviation, size


def means(grid: Domain, values: Tensor | None) -> Float[Tensor, " channel"]:
    """Mean of every channel over the fluid; empty without any.

    Args:
        grid: Where the values live.
        values: (simulation, time, channel, *space), all of them numbers, or None.
    """
    if values is None:
        return torch.zeros(0)
    return grid.fluid_values(values).transpose(0, 2).flatten(1).mean(dim=1)
