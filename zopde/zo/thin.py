"""Delta propagation: a probe that differs from the base in ONE channel stays one channel wide.

A moved weight of a convolution changes one channel of the output. Until the next layer that
mixes channels, norm, activation, pooling and skips are computed for that channel alone. The
mixing layer then needs one channel's difference:

    conv(x + d (x) e_c) = conv(x) + conv_c(d)

with conv_c the convolution by the weights of input channel c. Both are exact to round-off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.zo.planes import plane_by_plane


@final
@dataclass(frozen=True)
class Thin:
    """k probes that differ from the base in one channel each.

    Args:
        value: (batch, k, ...), the channel of each probe: a state whose channels are probes, so
            that whatever works channel by channel works on it as it is.
        channels: (k,), which channel of the base it stands for.
    """

    value: Tensor
    channels: Tensor

    def widen(self, base: Tensor) -> Tensor:
        """(k * batch, channel, ...): the base with each probe's channel put in its place."""
        k = len(self.channels)
        # Not `repeat`, which would lose the memory format.
        whole = torch.cat([base] * k).view(k, *base.shape)
        whole[torch.arange(k), :, self.channels] = self.value.transpose(0, 1)
        return whole.flatten(0, 1)

    def difference(self, base: Tensor) -> Tensor:
        """(batch, k, ...): how far each channel is from the base's."""
        return self.value - base[:, self.channels]


_ELEMENTWISE = {
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "softplus",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "tanh",
    "sigmoid",
    "abs",
    "neg",
    "exp",
    "sin",
    "cos",
    "square",
    "sqrt",
    "pow",
    "clamp",
    "clamp_min",
    "clamp_max",
    "clone",
    "contiguous",
    "float",
    "double",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "interpolate",
}
_BINARY = {"add", "sub", "mul", "truediv", "div", "maximum", "minimum"}

Answer = Thin | Tensor | None
"""Still thin; or (k * batch, ...), widened by a mixing layer; or None: not known here."""


def through_function(
    name: str,
    thin: Thin,
    x: Tensor,
    call: Callable[[Tensor], Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Answer:
    """A thin value through a function or method of one state.

    Args:
        name: What is called.
        thin: The probes at its input.
        x: (batch, channel, ...), the base's input.
        call: Calls it with another first argument.
        args: Its further arguments.
        kwargs: Its keyword arguments.
    """
    if name in _ELEMENTWISE:
        found = plane_by_plane(call, thin.value)
        return Thin(found, thin.channels) if isinstance(found, Tensor) else None
    if name == "mean":
        over = args[0] if args else kwargs.get("dim")
        axes = (over,) if isinstance(over, int) else over or (0,)
        if all(axis % x.dim() >= 2 for axis in axes):
            return Thin(call(thin.value), thin.channels)
    if name == "getitem" and isinstance(args[0], tuple) and args[0][:2] == (slice(None),) * 2:
        return Thin(call(thin.value), thin.channels)
    if name == "flatten" and (args or tuple(kwargs.values())) == (1,):
        return flat(thin)
    if name in ("pad", "_pad"):
        return _padded(thin, x, args, kwargs)
    return None


def through_binary(
    name: str, thins: list[Any], bases: list[Any], call: Callable[..., Any]
) -> Answer:
    """Values that meet channel by channel, as in a skip.

    Args:
        name: What is called.
        thins: Per argument, its `Thin`, or None where the probes have the base's value.
        bases: Per argument, the base's value, or a constant.
        call: Calls it with other arguments.
    """
    if name not in _BINARY:
        return None
    channels = next(thin.channels for thin in thins if thin is not None)
    width = {base.shape[1:2] for thin, base in zip(thins, bases, strict=True) if thin is not None}
    axes = {base.dim() for thin, base in zip(thins, bases, strict=True) if thin is not None}
    parts = []
    for thin, base in zip(thins, bases, strict=True):
        if thin is not None:
            if not torch.equal(thin.channels, channels):
                return None
            parts.append(thin.value)
        elif not isinstance(base, Tensor) or base.dim() == 0:
            parts.append(base)
        elif {base.dim()} != axes or base.shape[1:2] not in width:
            return None
        else:
            parts.append(base[:, channels])
    return Thin(call(*parts), channels) if len(width) == 1 else None


def joined(thins: list[Thin | None], bases: list[Tensor], dim: int) -> Answer:
    """Values laid side by side along the channels, one of them thin."""
    there = [(i, thin) for i, thin in enumerate(thins) if thin is not None]
    if dim % bases[0].dim() != 1 or len(there) != 1:
        return None
    at, thin = there[0]
    before = sum(base.shape[1] for base in bases[:at])
    return Thin(thin.value, thin.channels + before)


def flat(thin: Thin) -> Answer:
    """One entry per channel: (batch, k, 1, ...) -> (batch, k)."""
    if thin.value[0, 0].numel() != 1:
        return None
    return Thin(thin.value.flatten(1), thin.channels)


def _padded(thin: Thin, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
    """`F.pad` of the axes behind the channels; padding the channels renumbers them."""
    names = ("pad", "mode", "value")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    pads = list(given["pad"])
    space = 2 * (x.dim() - 2)
    shift = 0
    if len(pads) > space:
        if len(pads) > space + 2 or given.get("mode", "constant") != "constant":
            return None
        shift = pads[space]
        if min(pads[space:]) < 0:
            return None
    given["pad"] = pads[:space]
    value = F.pad(thin.value, **given) if any(pads[:space]) else thin.value
    return Thin(value, thin.channels + shift)
