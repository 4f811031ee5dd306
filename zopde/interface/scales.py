"""What a finite-difference step is a multiple of, measured from the numbers of a channel."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_CONSTANT = 1e-6  # of a channel's size: what varies less is round-off about a constant
_DIGITS = 128  # units of rounding that a finite-difference step moves a channel at the least
_FEW = 1.5  # mean absolute deviations, more than the standard deviation of a wave or of noise
Values = Float[Tensor, "*rows channel n"]
Scales = Float[Tensor, "*rows channel"]


def channel_scale(values: Values, mu: float) -> Scales:
    """Measure what a finite-difference step of every channel is a multiple of.

    The standard deviation of the channel; for a constant channel its size, and for one that is
    zero the largest of the other channels (1 if there is none). Never so little that `mu` of it
    moves the numbers by less than 128 units of rounding.
    """
    return _scale(values, values.std(dim=-1, correction=0), mu)


def step_scale(values: Values, mu: float) -> Scales:
    """As `channel_scale`, but a few large cells, such as a shock, do not decide for all.

    The deviation is the standard deviation or 1.5 times the mean absolute deviation from the
    median, the smaller one: a step that suits the one large cell is far too large for the others.
    """
    away = (values - values.median(dim=-1, keepdim=True).values).abs().mean(dim=-1)
    return _scale(values, torch.minimum(values.std(dim=-1, correction=0), _FEW * away), mu)


def is_constant(values: Values) -> Bool[Tensor, "*rows channel"]:
    """Which channels vary by no more than round-off."""
    return values.std(dim=-1, correction=0) <= _CONSTANT * _size(values)


def least_scale(sizes: Tensor, mu: float) -> Tensor:
    """The scale of which `mu` moves numbers of these sizes by 128 units of rounding."""
    return _DIGITS * torch.finfo(sizes.dtype).eps / mu * sizes


def _scale(values: Values, spread: Tensor, mu: float) -> Scales:
    size = _size(values)
    varied = torch.maximum(spread, least_scale(size, mu))
    scale = torch.where(is_constant(values), size, varied)
    largest = scale.amax(dim=-1, keepdim=True)
    return torch.where(scale == 0, torch.where(largest == 0, 1.0, largest), scale)


def _size(values: Values) -> Scales:
    return values.square().mean(dim=-1).sqrt()
