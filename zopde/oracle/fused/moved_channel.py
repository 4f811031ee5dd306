"""One channel's difference through a convolution, a norm and a max pool at once.

Behind a convolution every channel of a probe differs, but what is added has one source: with d
the difference of the one channel, W its weights and P what they read of d (one row for each place
that some weight reads, one column for each entry of a pooled channel),

    conv(x + d) = y + W P

A norm is affine within a channel, so it may follow the pool (see
`zopde.oracle.fused.moved_weight`), and it needs but two numbers of the sum. So the sum is made tile
by tile, a few states that stay in the cache while they are summed up and pooled, and what is
written is the pooled channel alone.
"""

from __future__ import annotations

from itertools import product
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zopde.oracle.norms import uses_batch_statistics
from zopde.oracle.one_channel import OneChannel, channel_major, every, moments, pad

_COLUMNS = 2048  # of a tile, so that its rows (72, say) fit into the cache twice


@final
class Crossing:
    """A convolution without groups, its norm and the pool behind that, for any probes.

    Args:
        conv: The convolution.
        norm: The norm.
        window: Size of the pool's windows, which divides the output's.
        y: (batch, channel, y, x), the convolution's unperturbed output.
    """

    def __init__(
        self, conv: nn.Conv2d, norm: nn.BatchNorm2d, window: tuple[int, int], y: Tensor
    ) -> None:
        self._conv, self._norm, self._window = conv, norm, window
        self._places = list(product(range(window[0]), range(window[1])))
        self._size = (y.shape[2] // window[0], y.shape[3] // window[1])
        self._columns = len(y) * self._size[0] * self._size[1]
        geometry = zip(conv.dilation, conv.kernel_size, conv.stride, window, strict=True)
        # Rows and columns of the padded input that the entries of a window read.
        self._reach = [d * (size - 1) + stride * (n - 1) + 1 for d, size, stride, n in geometry]
        channels = channel_major(y).transpose(0, 1)
        self._centre, _ = moments(channels)
        ones = torch.ones_like(self._centre)
        # The greatest of a times an entry is a times the least where a < 0.
        self._sign = ones if norm.weight is None else torch.where(norm.weight < 0, -ones, ones)
        self._tiles = self._cut(channels)
        self._weights: dict[int, Tensor] = {}

    def __call__(self, probes: OneChannel, x: Tensor) -> Tensor:
        """The pool's output for probes of the input x (batch, channel, y, x).

        Returns:
            (k * batch, channel, y, x), channels last.
        """
        read = self._read(probes.difference(x).transpose(0, 1))
        k, rows = len(read), len(self._tiles[0])
        weights = [self._weights_of(channel) for channel in probes.channels.tolist()]
        greatest = read.new_empty(k, rows // len(self._places), self._columns)
        sums = read.new_empty(2, k, len(self._tiles), rows)
        first = 0
        for j, tile in enumerate(self._tiles):  # each is read once for all probes
            last = first + tile.shape[1]
            whole = torch.empty_like(tile)
            for i in range(k):
                torch.mm(weights[i], read[i, :, first:last], out=whole).add_(tile)
                torch.sum(whole, 1, out=sums[0, i, j])
                torch.linalg.vector_norm(whole, dim=1, out=sums[1, i, j])
                by_place = whole.view(len(self._places), -1, last - first)
                torch.amax(by_place, 0, out=greatest[i, :, first:last])
            first = last
        scale, shift = self._affine(sums.double().unflatten(3, (len(self._places), -1)))
        answer = greatest.mul_(scale[..., None]).add_(shift[..., None]).transpose(1, 2)
        return answer.reshape(-1, *self._size, answer.shape[2]).permute(0, 3, 1, 2)

    def _cut(self, channels: Float[Tensor, "channel batch y x"]) -> list[Tensor]:
        """(place and channel, state and cell) of some states each: (y - mean) times the sign."""
        shape = (-1, 1, 1, 1)
        own = (channels - self._centre.view(shape)) * self._sign.view(shape)
        p, q = self._window
        by_place = torch.stack([own[:, :, i::p, j::q] for i, j in self._places]).flatten(0, 1)
        states = max(1, _COLUMNS // (self._size[0] * self._size[1]))
        return [tile.flatten(1) for tile in by_place.split(states, dim=1)]

    def _read(self, difference: Tensor) -> Float[Tensor, "k place column"]:
        """P of every probe, from (k, batch, y, x)."""
        padded = pad(self._conv, difference)
        read = padded.new_empty(len(padded), *self._reach, padded.shape[1], *self._size)
        steps = [s * n for s, n in zip(self._conv.stride, self._window, strict=True)]
        for corner in product(*(range(n) for n in self._reach)):
            rows, columns = map(every, steps, corner, self._size)
            read[:, corner[0], corner[1]] = padded[:, :, rows, columns]
        return read.flatten(3).flatten(1, 2)

    def _weights_of(self, channel: int) -> Float[Tensor, "row place"]:
        """W of an input channel: for each place in the window the same weights, moved."""
        if channel not in self._weights:
            conv = self._conv
            own = conv.weight[:, channel] * self._sign.view(-1, 1, 1)
            moved = own.new_zeros(len(self._places), len(own), *self._reach)
            for out, place in zip(moved, self._places, strict=True):
                corner = [at * stride for at, stride in zip(place, conv.stride, strict=True)]
                rows, columns = map(every, conv.dilation, corner, conv.kernel_size)
                out[:, rows, columns] = own
            self._weights[channel] = moved.flatten(2).flatten(0, 1)
        return self._weights[channel]

    def _affine(
        self, sums: Float[Tensor, "2 k tile place channel"]
    ) -> tuple[Float[Tensor, "k channel"], Float[Tensor, "k channel"]]:
        """What every probe's channels are multiplied by, and what is added.

        Args:
            sums: Sum, and root of the sum of squares, of the tiles.
        """
        norm, like = self._norm, self._centre
        size = torch.ones_like(like) if norm.weight is None else norm.weight.abs()
        bias = torch.zeros_like(like) if norm.bias is None else norm.bias
        if uses_batch_statistics(norm):
            entries = self._columns * len(self._places)
            mean = sums[0].sum(dim=(1, 2)) / entries
            variance = sums[1].square().sum(dim=(1, 2)) / entries - mean.square()
        else:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            centred = self._sign * (norm.running_mean - self._centre)
            mean, variance = (
                v.double().expand(sums.shape[1], -1) for v in (centred, norm.running_var)
            )
        scale = size * torch.rsqrt(variance.clamp_min(0) + norm.eps)
        return scale.to(like), (bias - scale * mean).to(like)
