"""A moved weight through a norm and a max pool, on pieces that stay in the cache.

Where BatchNorm and max pooling follow a convolution, nobody needs the moved channel whole. A
norm is affine within a channel, so it may follow the pool:

    maxpool(a z + b) = a maxpool(z) + b   for a >= 0,   a minpool(z) + b   for a < 0

and the pool's windows do not overlap, so it is the greatest of p q entries that lie p and q
apart. Those are kept apart, one piece of memory for each place in the window: a probe then adds,
compares and scales a few pieces, a quarter of the plane each for windows of 2 x 2. Nor need it
read what it made for the norm's statistics: with s the step, y the channel and x what the tap sees,

    mean(y + s x) = mean(y) + s mean(x),   var(y + s x) = var(y) + 2 s cov(y, x) + s^2 var(x)

of which the covariances are the weight gradient of the convolution for the cotangent y.

What the norm's own weights and the convolution's bias change is affine, too, and is added to the
base's pooled channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn.grad import conv2d_weight

from zopde.oracle.norms import uses_batch_statistics
from zopde.oracle.per_channel import every, in_planes, moments, windows_apart
from zopde.oracle.rank_one import Move, Share, pad

Numbers = Float[Tensor, " k"]  # in double precision
_LEAST = 1e-2  # a norm's weight below which its input is not found again from its output


@final
@dataclass(frozen=True)
class Chain:
    """A layer, the norm that it is or that it alone feeds, and the pool that the norm alone feeds.

    Args:
        layer: Whose weights are moved, a convolution or the norm itself.
        norm: The norm.
        window: Size of the pool's windows.
        end: The pool's node.
    """

    layer: nn.Module
    norm: nn.BatchNorm2d
    window: tuple[int, int]
    end: fx.Node

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """Those that have weights."""
        return self.layer, self.norm


def chain_after(node: fx.Node, graph: fx.GraphModule, y: Tensor) -> Chain | None:
    """The chain from a layer's node with the output `y`; None where there is none."""
    layer = graph.get_submodule(str(node.target))
    norm = (node, layer) if isinstance(layer, nn.BatchNorm2d) else _only_module_after(node, graph)
    pool = _only_module_after(norm[0], graph) if norm else None
    if not norm or not pool or type(norm[1]) is not nn.BatchNorm2d:
        return None
    window = windows_apart(pool[1], y) if type(pool[1]) is nn.MaxPool2d else None
    return Chain(layer, norm[1], window, pool[0]) if window else None


def _only_module_after(node: fx.Node, graph: fx.GraphModule) -> tuple[fx.Node, nn.Module] | None:
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module" or len(users[0].args) != 1:
        return None
    return users[0], graph.get_submodule(str(users[0].target))


@final
class Pieces:
    """Every p-th row and q-th column of a layer's planes, cut when first asked for.

    Args:
        conv: The layer.
        x: (batch, channel, y, x), its input.
        y: (batch, channel, y, x), its output.
        window: (p, q), which divide the output's sizes.
    """

    def __init__(self, conv: nn.Conv2d, x: Tensor, y: Tensor, window: tuple[int, int]) -> None:
        self._conv, self._padded, self._y = conv, pad(conv, x), y
        self._planes = in_planes(self._padded)
        self.places = list(product(range(window[0]), range(window[1])))
        self._window = window
        self.shape = (len(y), y.shape[2] // window[0], y.shape[3] // window[1])
        self._own: dict[tuple[int, int], Tensor] = {}
        self._seen: dict[tuple[int, ...], Tensor] = {}
        self._squares: dict[tuple[int, ...], tuple[float, float]] = {}
        self._moments: dict[tuple[int, ...], tuple[float, float]] = {}

    def own(self, channel: int, place: tuple[int, int]) -> Float[Tensor, "batch y x"]:
        """Of an output channel, the entries at one place of each window."""
        return self._own_at(place)[channel]

    def seen(
        self, source: int, tap: tuple[int, ...], place: tuple[int, int]
    ) -> Float[Tensor, "batch y x"]:
        """Of an input channel, what a tap of the kernel reads for those entries."""
        return self._seen_from((source, *self._first(tap, place)))

    def moments(self, moves: Sequence[Move]) -> tuple[Numbers, Numbers]:
        """Mean and variance of every moved channel."""
        channels = torch.tensor([move.channel for move in moves])
        sources = torch.tensor([move.source for move in moves])
        taps = torch.tensor([move.tap for move in moves]).t()
        steps = torch.tensor([move.step for move in moves], dtype=torch.float64)
        mean, variance = self._own_moments[:, channels]
        seen_mean, seen_variance = _pairs([self._seen_moments(m.source, m.tap) for m in moves])
        products = self._products[(channels, sources % self._conv.weight.shape[1], *taps)]
        covariance = products - mean * seen_mean
        return (
            mean + steps * seen_mean,
            variance + 2 * steps * covariance + steps**2 * seen_variance,
        )

    def _first(self, tap: tuple[int, ...], place: tuple[int, int]) -> tuple[int, int]:
        """Row and column of the padded input that a tap reads first."""
        (p, q), (i, j) = self._conv.stride, self._conv.dilation
        return tap[0] * i + place[0] * p, tap[1] * j + place[1] * q

    def _seen_from(self, first: tuple[int, ...]) -> Tensor:
        if first not in self._seen:
            source, *at = first
            strides = zip(self._conv.stride, self._window, strict=True)
            rows, columns = (
                every(stride * n, begin, count)
                for begin, (stride, n), count in zip(at, strides, self.shape[1:], strict=True)
            )
            self._seen[first] = self._planes[:, source, rows, columns].contiguous()
        return self._seen[first]

    def _seen_moments(self, source: int, tap: tuple[int, ...]) -> tuple[float, float]:
        """Mean and variance of what a tap sees of an input channel."""
        if (source, *tap) not in self._moments:
            firsts = [(source, *self._first(tap, place)) for place in self.places]
            for first in firsts:
                if first not in self._squares:
                    self._squares[first] = _squares(self._seen_from(first)[None])[0]
            self._moments[source, *tap] = _together([self._squares[first] for first in firsts])
        return self._moments[source, *tap]

    @cached_property
    def _own_moments(self) -> Float[Tensor, "2 channel"]:
        """Mean and variance of every output channel."""
        by_place = [_squares(self._own_at(place)) for place in self.places]
        return _pairs([_together(parts) for parts in zip(*by_place, strict=True)])

    @cached_property
    def _products(self) -> Float[Tensor, "channel source *tap"]:
        """mean(y x) of every output channel and what every tap sees."""
        conv, y = self._conv, self._y
        found = conv2d_weight(
            self._padded, conv.weight.shape, y, conv.stride, 0, conv.dilation, conv.groups
        )
        products: Tensor = found.double() / y[:, 0].numel()
        return products

    def _own_at(self, place: tuple[int, int]) -> Float[Tensor, "channel batch y x"]:
        if place not in self._own:
            rows, columns = (slice(at, None, n) for at, n in zip(place, self._window, strict=True))
            self._own[place] = in_planes(self._y[:, :, rows, columns]).transpose(0, 1)
        return self._own[place]


def _squares(planes: Float[Tensor, "k batch y x"]) -> list[tuple[float, float]]:
    """(mean, mean square) of every plane."""
    means, variances = moments(planes)
    pairs = zip(means.tolist(), variances.tolist(), strict=True)
    return [(mean, variance + mean**2) for mean, variance in pairs]


def _pairs(found: Sequence[tuple[float, float]]) -> Float[Tensor, "2 k"]:
    return torch.tensor(found, dtype=torch.float64).t()


def _together(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean and variance of equally many entries each, given as (mean, mean square)."""
    mean, square = (sum(values) / len(parts) for values in zip(*parts, strict=True))
    return mean, square - mean**2


def behind_pool(
    chain: Chain, change: Share, steps: Tensor, out: Tensor, pieces: Callable[[], Pieces]
) -> Tensor | None:
    """The probes' channels of a pool's output.

    Args:
        chain: From the layer that is moved to the pool.
        change: What the probes change at the layer.
        steps: (k,), by how much each is moved.
        out: (batch, channel, y, x), the pool's unperturbed output.
        pieces: Of a convolution.

    Returns:
        (batch, k, y, x), lying in planes; None where it has to be computed the long way.
    """
    if change.moves:
        return pooled(pieces(), change.moves(), chain.norm)
    own = out.transpose(0, 1)[change.channels]
    added = _added(chain, change, own, steps.to(own).view(-1, 1, 1, 1))
    return None if added is None else own.add_(added).transpose(0, 1)


def _added(chain: Chain, change: Share, own: Tensor, step: Tensor) -> Tensor | float | None:
    """What a bias of the layer, or a weight of the norm, adds to pooled channels (k, ...)."""
    norm, channels = chain.norm, change.channels
    if change.is_bias and chain.layer is norm:
        return step
    if change.is_bias:
        if uses_batch_statistics(norm):
            return 0.0  # its mean takes all of it away
        assert norm.running_var is not None
        scales = _scales(norm, channels, norm.running_var[channels].double())
        return step * scales.to(step).view(-1, 1, 1, 1)
    if chain.layer is not norm:
        return None
    weight, bias = (p[channels].view(-1, 1, 1, 1) for p in (norm.weight, norm.bias))
    if bool((weight.abs() < _LEAST).any() or (weight * (weight + step) <= 0).any()):
        return None  # where the sign changes, greatest becomes least
    return (own - bias) * (step / weight)


def pooled(pieces: Pieces, moves: list[Move], norm: nn.BatchNorm2d) -> Tensor:
    """maxpool(norm(channel)) of the moved channel of every probe.

    Args:
        pieces: Of the convolution whose weights are moved.
        moves: One a probe.
        norm: What follows; by the probe's own statistics in train mode.

    Returns:
        (batch, probe, y, x), lying in planes.
    """
    like = pieces.own(0, (0, 0))
    found, spare = like.new_empty(len(moves), *pieces.shape), torch.empty_like(like)
    first, *others = pieces.places
    affine = _affine(norm, moves, pieces)
    for move, out, scale, shift in zip(moves, found, *affine, strict=True):

        def put(place: tuple[int, int], into: Tensor, move: Move = move) -> None:
            seen = pieces.seen(move.source, move.tap, place)
            torch.add(pieces.own(move.channel, place), seen, alpha=move.step, out=into)

        put(first, out)
        for place in others:
            put(place, spare)
            (torch.maximum if scale >= 0 else torch.minimum)(out, spare, out=out)
        out.mul_(scale).add_(shift)
    return found.transpose(0, 1)


def _affine(
    norm: nn.BatchNorm2d, moves: Sequence[Move], pieces: Pieces
) -> tuple[list[float], list[float]]:
    """a and b of a norm's a z + b in the moved channel of every probe."""
    channels = torch.tensor([move.channel for move in moves])
    if uses_batch_statistics(norm):
        mean, variance = pieces.moments(moves)
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
