"""A moved unit, and the way from the slopes of the loss in units to those in the weight."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from zopde.oracle.coordinates import LayerChange, ProbeBlock
from zopde.oracle.one_channel import Conv, pad, windows


@final
class UnitChange(LayerChange):
    """A moved unit adds its step to one channel of the layer's output, at one pixel."""

    def __init__(self, layer: nn.Module, block: ProbeBlock) -> None:
        super().__init__(layer, block)
        shape = block.parameter.shape  # of the output, without the batch
        if self.trailing:  # a linear layer's channels come last
            self._space, last = shape[:-1], shape[-1]
            self.channels, self._pixels = block.positions % last, block.positions // last
        else:
            self._space, size = shape[1:], torch.Size(shape[1:]).numel()
            self.channels, self._pixels = block.positions // size, block.positions % size

    def of_probes(self, x: Tensor) -> Tensor:
        """The step at the pixel, zero elsewhere."""
        change = x.new_zeros(*x.shape[:2], torch.Size(self._space).numel())
        self._add_steps(change)
        return change.view(*x.shape[:2], *self._space)

    def moved_channels(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - as others take it
        """Gathered, and changed in place."""
        moved = y.transpose(0, 1)[self.channels]
        self._add_steps(moved.flatten(2))
        return moved.transpose(0, 1)

    def _add_steps(self, channels: Tensor) -> None:
        """Into (k, batch, pixel)."""
        rows = torch.arange(len(self.channels))
        channels[rows, :, self._pixels] += self.block.steps.to(channels)[:, None]


def weight_gradient(layer: Any, x: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - of two kinds
    """The gradient in a layer's weight, and in its bias, from that in its output.

        dl/dW = sum_s sum_u dl/da_u da_u/dW (x_s),   dl/db = sum_s sum_u dl/da_u

    Args:
        layer: A linear layer or a convolution.
        x: (batch, ...), its input.
        slopes: (batch, ...), the slope of the loss in every entry of its output.
    """
    if isinstance(layer, nn.Linear):
        rows = slopes.flatten(0, -2)
        return rows.t() @ x.flatten(0, -2).to(rows), rows.sum(dim=0)
    conv: Conv = layer
    seen = windows(conv, pad(conv, x)).to(slopes)
    groups, taps = conv.groups, conv.weight.shape[2:]
    weight = slopes.new_empty(conv.weight.shape)
    channels = slopes.flatten(2).unflatten(1, (groups, -1))
    for tap in torch.cartesian_prod(*map(torch.arange, taps)).view(-1, len(taps)).tolist():
        read = seen[(slice(None), slice(None), *tap)].flatten(2).unflatten(1, (groups, -1))
        own = torch.einsum("bgop,bgip->goi", channels, read)
        weight[(slice(None), slice(None), *tap)] = own.flatten(0, 1)
    return weight, slopes.flatten(2).sum(dim=(0, 2))
