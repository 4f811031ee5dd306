"""Mean absolute error, the later states counting more."""

import torch
from torch import Tensor


def late(predicted: Tensor, reference: Tensor, domain: object, power: float = 1.0) -> Tensor:
    """(window, time, channel, y, x), twice -> (window,)."""
    error = (predicted - reference).abs().flatten(2).mean(dim=2)
    weight = torch.arange(1, error.shape[1] + 1).to(error) ** power
    return (error * weight).sum(dim=1) / weight.sum()
