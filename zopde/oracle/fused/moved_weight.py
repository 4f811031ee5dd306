"""A moved weight through a norm and a max pool, on subgrids that stay in the cache.

Where BatchNorm and max pooling follow a convolution, nobody needs the moved channel whole. A
norm is affine within a channel, so it may follow the pool:

    maxpool(a z + b) = a maxpool(z) + b   for a >= 0,   a minpool(z) + b   for a < 0

and the pool's windows do not overlap, so it is the greatest of p q entries, one from each subgrid
of entries that lie p rows and q columns apart. A subgrid is kept as memory of its own: a probe
then adds, compares and scales a few of them, a quarter of the channel each for windows of 2 x 2.
Nor need it read what it made for the norm's statistics: with s the step, y the channel and x what
the tap sees,

    mean(y + s x) = mean(y) + s mean(x),   var(y + s x) = var(y) + 2 s cov(y, x) + s^2 var(x)

of which the covariances are the weight gradient of the convolution for the cotangent y.

What the norm's own weights and the convolution's bias change is affine, too, and is added to the
base's pooled channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from zopde.oracle.coordinates import BiasChange, LayerChange, WeightStep
from zopde.oracle.norms import uses_batch_statistics
from zopde.oracle.one_channel import channel_major, every, moments, pad

Numbers = Float[Tensor, " k"]  # in double precision
_SMALLEST_WEIGHT = 1e-2  # of a norm: below it, its input is lost in its output's round-off


@final
class Subgrids:
    """A convolution's channels, one subgrid for each place in a window; made when first wanted.

    Probes of neighbouring weights read the same ones, so all are held. The window's size (p, q)
    divides the output's.
    """

    def __init__(self, conv: nn.Conv2d, x: Tensor, y: Tensor, window: tuple[int, int]) -> None:
        self._conv, self._padded, self._y = conv, pad(conv, x), y
        self._inputs = channel_major(self._padded)
        self._window = window
        self.places = list(product(range(window[0]), range(window[1])))
        self.shape = (len(y), y.shape[2] // window[0], y.shape[3] // window[1])
        self._outputs: dict[tuple[int, int], Tensor] = {}
        self._seen: dict[tuple[int, ...], Tensor] = {}
        self._squares: dict[tuple[int, ...], tuple[float, float]] = {}

    def output(self, channel: int, place: tuple[int, int]) -> Float[Tensor, "batch y x"]:
        """Of an output channel, the entries at one place of each window."""
        return self._outputs_at(place)[channel]

    def seen(
        self, source: int, tap: tuple[int, ...], place: tuple[int, int]
    ) -> Float[Tensor, "batch y x"]:
        """Of an input channel, what a tap of the kernel reads for those entries."""
        return self._seen_from((source, *self._first(tap, place)))

    def moments(self, steps: Sequence[WeightStep]) -> tuple[Numbers, Numbers]:
        """Mean and variance of every moved channel."""
        channels = torch.tensor([step.channel for step in steps])
        sources = torch.tensor([step.source for step in steps])
        taps = torch.tensor([step.tap for step in steps]).t()
        far = torch.tensor([step.step for step in steps], dtype=torch.float64)
        mean, variance = self._output_moments[:, channels]
        seen_mean, seen_variance = _columns([self._seen_moments(s.source, s.tap) for s in steps])
        products = self._products[(channels, sources % self._conv.weight.shape[1], *taps)]
        covariance = products - mean * seen_mean
        return (mean + far * seen_mean, variance + 2 * far * covariance + far**2 * seen_variance)

    def _first(self, tap: tuple[int, ...], place: tuple[int, int]) -> tuple[int, int]:
        """Row and column of the padded input that a tap reads first."""
        (p, q), (i, j) = self._conv.stride, self._conv.dilation
        return tap[0] * i + place[0] * p, tap[1] * j + place[1] * q

    def _seen_from(self, first: tuple[int, ...]) -> Tensor:
        """Of (source, row, column): the subgrid of that channel that begins there."""
        if first not in self._seen:
            source, *corner = first
            strides = zip(self._conv.stride, self._window, strict=True)
            rows, columns = (
                every(stride * n, begin, count)
                for begin, (stride, n), count in zip(corner, strides, self.shape[1:], strict=True)
            )
            self._seen[first] = self._inputs[:, source, rows, columns].contiguous()
        return self._seen[first]

    def _seen_moments(self, source: int, tap: tuple[int, ...]) -> tuple[float, float]:
        """Mean and variance of what a tap sees of an input channel."""
        firsts = [(source, *self._first(tap, place)) for place in self.places]
        for first in firsts:
            if first not in self._squares:
                self._squares[first] = _mean_squares(self._seen_from(first)[None])[0]
        return _together([self._squares[first] for first in firsts])

    @cached_property
    def _output_moments(self) -> Float[Tensor, "2 channel"]:
        """Mean and variance of every output channel."""
        by_place = [_mean_squares(self._outputs_at(place)) for place in self.places]
        return _columns([_together(subgrids) for subgrids in zip(*by_place, strict=True)])

    @cached_property
    def _products(self) -> Float[Tensor, "channel source *tap"]:
        """mean(y x) of every output channel and what every tap sees."""
        conv, y = self._conv, self._y
        sums = conv2d_weight(
            self._padded, conv.weight.shape, y, conv.stride, 0, conv.dilation, conv.groups
        )
        products: Tensor = sums.double() / y[:, 0].numel()
        return products

    def _outputs_at(self, place: tuple[int, int]) -> Float[Tensor, "channel batch y x"]:
        if place not in self._outputs:
            rows, columns = (slice(at, None, n) for at, n in zip(place, self._window, strict=True))
            self._outputs[place] = channel_major(self._y[:, :, rows, columns]).transpose(0, 1)
        return self._outputs[place]


def _mean_squares(channels: Float[Tensor, "k batch y x"]) -> list[tuple[float, float]]:
    """(mean, mean square) of every channel."""
    means, variances = moments(channels)
    pairs = zip(means.tolist(), variances.tolist(), strict=True)
    return [(mean, variance + mean**2) for mean, variance in pairs]


def _together(subgrids: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean and variance of equally many entries each, given as (mean, mean square)."""
    mean, square = (sum(values) / len(subgrids) for values in zip(*subgrids, strict=True))
    return mean, square - mean**2


def _columns(pairs: Sequence[tuple[float, float]]) -> Float[Tensor, "2 k"]:
    return torch.tensor(pairs, dtype=torch.float64).t()


def pooled(subgrids: Subgrids, steps: list[WeightStep], norm: nn.BatchNorm2d) -> Tensor:
    """maxpool(norm(channel)) of the moved channel of every probe.

    Args:
        subgrids: Of the convolution whose weights are moved.
        steps: One a probe.
        norm: What follows; by the probe's own statistics in train mode.

    Returns:
        (batch, probe, y, x), channel-major.
    """
    like = subgrids.output(0, (0, 0))
    greatest, spare = like.new_empty(len(steps), *subgrids.shape), torch.empty_like(like)
    for step, out, scale, shift in zip(
        steps, greatest, *_affine(norm, steps, subgrids), strict=True
    ):
        for place in subgrids.places:
            entries = spare if any(place) else out
            seen = subgrids.seen(step.source, step.tap, place)
            torch.add(subgrids.output(step.channel, place), seen, alpha=step.step, out=entries)
            if entries is spare:
                (torch.maximum if scale >= 0 else torch.minimum)(out, spare, out=out)
        out.mul_(scale).add_(shift)
    return greatest.transpose(0, 1)


def _affine(
    norm: nn.BatchNorm2d, steps: Sequence[WeightStep], subgrids: Subgrids
) -> tuple[list[float], list[float]]:
    """a and b of a norm's a z + b in the moved channel of every probe."""
    channels = torch.tensor([step.channel for step in steps])
    if uses_batch_statistics(norm):
        mean, variance = subgrids.moments(steps)
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, variance = (v[channels].double() for v in (norm.running_mean, norm.running_var))
    scale = _scales(norm, channels, variance)
    bias = 0.0 if norm.bias is None else norm.bias[channels].double()
    return scale.tolist(), (bias - scale * mean).tolist()


def _scales(norm: nn.BatchNorm2d, channels: Tensor, variance: Numbers) -> Numbers:
    weight = 1.0 if norm.weight is None else norm.weight[channels].double()
    return weight * torch.rsqrt(variance.clamp_min(0.0) + norm.eps)


def added_to_pooled(
    own: Float[Tensor, "k batch y x"], change: LayerChange, norm: nn.BatchNorm2d
) -> Tensor | float | None:
    """What moved weights of a norm, or a moved bias before it, add to the pooled channels.

    Args:
        own: The base's pooled channels, of each probe the one that it changes.
        change: What the probes change at the norm, or at the layer before it.
        norm: The norm.

    Returns:
        What is to be added to `own`; None where that has to be computed the long way.
    """
    channels = change.channels
    step = change.block.steps.to(own).view(-1, 1, 1, 1)
    if isinstance(change, BiasChange):
        if change.layer is norm:
            return step
        if uses_batch_statistics(norm):
            return 0.0  # its mean takes all of it away
        assert norm.running_var is not None
        scales = _scales(norm, channels, norm.running_var[channels].double())
        return step * scales.to(step).view(-1, 1, 1, 1)
    if change.layer is not norm:
        return None
    weight, bias = (p[channels].view(-1, 1, 1, 1) for p in (norm.weight, norm.bias))
    if bool((weight.abs() < _SMALLEST_WEIGHT).any() or (weight * (weight + step) <= 0).any()):
        return None  # where the sign changes, greatest becomes least
    added: Tensor = (own - bias) * (step / weight)
    return added
