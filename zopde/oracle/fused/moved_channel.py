"""One channel's difference through a convolution, a norm and a max pool at once.

Behind a convolution every channel of a probe differs, but what is added has one source: with d
the difference of the one channel, W its weights and P what they read of d (one row for each place
that some weight reads, one column for each entry of a pooled plane),

    conv(x + d) = y + W P

A norm is affine within a channel, so it may follow the pool (see
`zopde.oracle.fused.moved_weight`), and it needs but two numbers of the sum. So the sum is made
piece by piece, in a few states that stay in the cache while they are summed up and pooled, and
what is written is the pooled plane alone.
"""

from __future__ import annotations

from itertools import product
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zopde.oracle.norms import uses_batch_statistics
from zopde.oracle.one_channel import Thin
from zopde.oracle.per_channel import every, in_planes, moments
from zopde.oracle.rank_one import pad

_COLUMNS = 2048  # of a piece, so that its rows (72, say) fit into the cache twice


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
        planes = in_planes(y).transpose(0, 1)
        self._centre, _ = moments(planes)
        ones = torch.ones_like(self._centre)
        # The greatest of a times an entry is a times the least where a < 0.
        self._sign = ones if norm.weight is None else torch.where(norm.weight < 0, -ones, ones)
        self._pieces = self._cut(planes)
        self._weights: dict[int, Tensor] = {}

    def __call__(self, thin: Thin, x: Tensor) -> Tensor:
        """The pool's output for probes of the input x (batch, channel, y, x).

        Returns:
            (k * batch, channel, y, x), channels last.
        """
        read = self._read(thin.difference(x).transpose(0, 1))
        k, rows = len(read), len(self._pieces[0])
        weights = [self._of(channel) for channel in thin.channels.tolist()]
        greatest = read.new_empty(k, rows // len(self._places), self._columns)
        sums = read.new_empty(2, k, len(self._pieces), rows)
        first = 0
        for j, piece in enumerate(self._pieces):  # read once for all probes
            last = first + piece.shape[1]
            whole = torch.empty_like(piece)
            for i in range(k):
                torch.mm(weights[i], read[i, :, first:last], out=whole).add_(piece)
                torch.sum(whole, 1, out=sums[0, i, j])
                torch.linalg.vector_norm(whole, dim=1, out=sums[1, i, j])
                apart = whole.view(len(self._places), -1, last - first)
                torch.amax(apart, 0, out=greatest[i, :, first:last])
            first = last
        scale, shift = self._affine(sums.double().unflatten(3, (len(self._places), -1)))
        found = greatest.mul_(scale[..., None]).add_(shift[..., None]).transpose(1, 2)
        return found.reshape(-1, *self._size, found.shape[2]).permute(0, 3, 1, 2)

    def _cut(self, planes: Float[Tensor, "channel batch y x"]) -> list[Tensor]:
        """(place and channel, state and cell) of some states each: (y - mean) times the sign."""
        shape = (-1, 1, 1, 1)
        own = (planes - self._centre.view(shape)) * self._sign.view(shape)
        p, q = self._window
        apart = torch.stack([own[:, :, i::p, j::q] for i, j in self._places]).flatten(0, 1)
        states = max(1, _COLUMNS // (self._size[0] * self._size[1]))
        return [part.flatten(1) for part in apart.split(states, dim=1)]

    def _reach(self) -> list[int]:
        """Rows and columns of the padded input that the entries of a window read."""
        sides = zip(
            self._conv.dilation,
            self._conv.kernel_size,
            self._conv.stride,
            self._window,
            strict=True,
        )
        return [dilation * (size - 1) + stride * (n - 1) + 1 for dilation, size, stride, n in sides]

    def _read(self, difference: Tensor) -> Float[Tensor, "k place column"]:
        """P of every probe, from (k, batch, y, x)."""
        padded = pad(self._conv, difference)
        reach = self._reach()
        found = padded.new_empty(len(padded), *reach, padded.shape[1], *self._size)
        steps = [s * n for s, n in zip(self._conv.stride, self._window, strict=True)]
        for at in product(*(range(n) for n in reach)):
            rows, columns = (
                every(step, begin, count)
                for begin, step, count in zip(at, steps, self._size, strict=True)
            )
            found[:, at[0], at[1]] = padded[:, :, rows, columns]
        return found.flatten(3).flatten(1, 2)

    def _of(self, channel: int) -> Float[Tensor, "row place"]:
        """W of an input channel: for each place in the window the same weights, moved."""
        if channel not in self._weights:
            own = self._conv.weight[:, channel] * self._sign.view(-1, 1, 1)
            found = own.new_zeros(len(self._places), len(own), *self._reach())
            for into, place in zip(found, self._places, strict=True):
                rows, columns = (
                    every(dilation, at * stride, size)
                    for at, stride, dilation, size in zip(
                        place,
                        self._conv.stride,
                        self._conv.dilation,
                        self._conv.kernel_size,
                        strict=True,
                    )
                )
                into[:, rows, columns] = own
            self._weights[channel] = found.flatten(2).flatten(0, 1)
        return self._weights[channel]

    def _affine(
        self, sums: Float[Tensor, "2 k piece place channel"]
    ) -> tuple[Float[Tensor, "k channel"], Float[Tensor, "k channel"]]:
        """What every probe's channels are multiplied by, and what is added.

        Args:
            sums: Sum, and root of the sum of squares, of the pieces.
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
            apart = self._sign * (norm.running_mean - self._centre)
            mean, variance = (
                v.double().expand(sums.shape[1], -1) for v in (apart, norm.running_var)
            )
        scale = size * torch.rsqrt(variance.clamp_min(0) + norm.eps)
        return scale.to(like), (bias - scale * mean).to(like)
