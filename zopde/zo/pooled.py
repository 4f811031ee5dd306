"""A moved convolution weight through a norm and a max pool, on pieces that stay in the cache.

Where BatchNorm and max pooling follow a convolution, nobody needs the moved channel whole. A
norm is affine within a channel, so it may follow the pool:

    maxpool(a z + b) = a maxpool(z) + b   for a >= 0,   a minpool(z) + b   for a < 0

and the pool's windows do not overlap, so it is the greatest of p q entries that lie p and q
apart. Those are kept apart, one piece of memory for each place in the window: a probe then adds,
compares and scales a few pieces, a quarter of the plane each for windows of 2 x 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from zopde.zo.norms import uses_batch_statistics
from zopde.zo.planes import moments, windows_apart
from zopde.zo.rank_one import Move


@final
@dataclass(frozen=True)
class Chain:
    """What follows a convolution: a norm that it alone feeds, and a pool that the norm alone feeds.

    Args:
        norm: The norm.
        window: Size of the pool's windows.
        end: The pool's node.
    """

    norm: nn.BatchNorm2d
    window: tuple[int, int]
    end: fx.Node


def chain_after(node: fx.Node, graph: fx.GraphModule, y: Tensor) -> Chain | None:
    """The chain behind a convolution's node with the output `y`; None where there is none."""
    norm = _only_module_after(node, graph)
    pool = _only_module_after(norm[0], graph) if norm else None
    if not norm or not pool or type(norm[1]) is not nn.BatchNorm2d:
        return None
    window = windows_apart(pool[1], y) if type(pool[1]) is nn.MaxPool2d else None
    return Chain(norm[1], window, pool[0]) if window else None


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
        padded: (batch, channel, *padded), its padded input.
        y: (batch, channel, y, x), its output.
        window: (p, q), which divide the output's sizes.
    """

    def __init__(self, conv: nn.Conv2d, padded: Tensor, y: Tensor, window: tuple[int, int]) -> None:
        self._conv, self._padded, self._y = conv, padded, y
        self.places = list(product(range(window[0]), range(window[1])))
        self._window = window
        self.shape = (len(y), y.shape[2] // window[0], y.shape[3] // window[1])
        self._cut: dict[tuple[int, ...], Tensor] = {}

    def own(self, channel: int, place: tuple[int, int]) -> Float[Tensor, "batch y x"]:
        """Of an output channel, the entries at one place of each window."""
        return self._piece(self._y, (0, channel, *place), self._window)

    def seen(
        self, source: int, tap: tuple[int, ...], place: tuple[int, int]
    ) -> Float[Tensor, "batch y x"]:
        """Of an input channel, what a tap of the kernel reads for those entries."""
        stride, dilation = self._conv.stride, self._conv.dilation
        at = (
            tap[0] * dilation[0] + place[0] * stride[0],
            tap[1] * dilation[1] + place[1] * stride[1],
        )
        apart = (stride[0] * self._window[0], stride[1] * self._window[1])
        return self._piece(self._padded, (1, source, *at), apart)

    def _piece(self, of: Tensor, key: tuple[int, ...], apart: tuple[int, int]) -> Tensor:
        if key not in self._cut:
            _, channel, *first = key
            stop = [
                f + a * (n - 1) + 1 for f, a, n in zip(first, apart, self.shape[1:], strict=True)
            ]
            rows, columns = (slice(*s) for s in zip(first, stop, apart, strict=True))
            self._cut[key] = of[:, channel, rows, columns].contiguous()
        return self._cut[key]


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
    found = like.new_empty(len(moves), *pieces.shape)
    moved = like.new_empty(len(pieces.places), *pieces.shape)
    for move, out in zip(moves, found, strict=True):
        for place, piece in zip(pieces.places, moved, strict=True):
            own, seen = pieces.own(move.channel, place), pieces.seen(move.source, move.tap, place)
            torch.add(own, seen, alpha=move.step, out=piece)
        scale, shift = _affine(norm, move.channel, moved)
        (torch.amax if scale >= 0 else torch.amin)(moved, 0, out=out)
        out.mul_(scale).add_(shift)
    return found.transpose(0, 1)


def _affine(norm: nn.BatchNorm2d, channel: int, values: Tensor) -> tuple[float, float]:
    """a and b of a norm's a z + b in one channel."""
    if uses_batch_statistics(norm):
        means, variances = moments(values.flatten(0, 1)[None])
        mean, variance = float(means), float(variances)
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, variance = float(norm.running_mean[channel]), float(norm.running_var[channel])
    weight = 1.0 if norm.weight is None else float(norm.weight[channel])
    scale = weight / (variance + norm.eps) ** 0.5
    return scale, (0.0 if norm.bias is None else float(norm.bias[channel])) - scale * mean
