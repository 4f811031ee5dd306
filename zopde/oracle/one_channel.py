"""Delta propagation: a probe that differs from the base in ONE channel stays one channel wide.

A moved weight of a convolution changes one channel of the output. Until the next layer that
mixes channels, norm, activation, pooling and skips are computed for that channel alone. The
mixing layer then needs one channel's difference:

    conv(x + d (x) e_c) = conv(x) + conv_c(d)

with conv_c the convolution by the weights of input channel c. Both are exact to round-off.

Thin values through layers: by channel where the layer allows, widened where it mixes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.oracle.norms import BATCH, INSTANCE, uses_batch_statistics
from zopde.oracle.per_channel import batch_norm, lies_in_planes, max_pool, plane_by_plane
from zopde.oracle.rank_one import CONVS, Conv, pad


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


_ACTIVATIONS = (
    "ReLU",
    "ReLU6",
    "LeakyReLU",
    "ELU",
    "SELU",
    "CELU",
    "GELU",
    "SiLU",
    "Mish",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Tanh",
    "Sigmoid",
    "LogSigmoid",
    "Tanhshrink",
    "Threshold",
    "Identity",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "AlphaDropout",
)
_POOLS = (
    "MaxPool",
    "AvgPool",
    "AdaptiveMaxPool",
    "AdaptiveAvgPool",
    "LPPool",
    "ReflectionPad",
    "ReplicationPad",
    "ZeroPad",
    "ConstantPad",
    "CircularPad",
)
_BY_CHANNEL = {getattr(nn, name) for name in _ACTIVATIONS} | {nn.Upsample}
_BY_CHANNEL |= {
    getattr(nn, f"{name}{n}d") for name in _POOLS for n in (1, 2, 3) if hasattr(nn, f"{name}{n}d")
}


def through_module(module: nn.Module, thin: Thin, x: Tensor, y: Tensor) -> Answer:
    """A thin value through a module.

    Args:
        module: The layer.
        thin: The probes at its input.
        x: (batch, channel, ...), the base's input.
        y: (batch, channel, ...), the base's output.
    """
    rule = _RULES.get(type(module))
    return rule(module, thin, x, y) if rule else None


def _by_channel(module: nn.Module, thin: Thin, _x: Tensor, _y: Tensor) -> Answer:
    found = plane_by_plane(module, thin.value)
    return Thin(found, thin.channels) if isinstance(found, Tensor) else None


def _max_pool(module: nn.MaxPool2d, thin: Thin, _x: Tensor, _y: Tensor) -> Answer:
    found = plane_by_plane(partial(max_pool, module), thin.value)
    return Thin(found, thin.channels) if isinstance(found, Tensor) else None


def _prelu(module: nn.PReLU, thin: Thin, _x: Tensor, _y: Tensor) -> Answer:
    weight = module.weight if module.weight.numel() == 1 else module.weight[thin.channels]
    return Thin(F.prelu(thin.value, weight), thin.channels)


def _norm(module: nn.modules.batchnorm._NormBase, thin: Thin, _x: Tensor, _y: Tensor) -> Answer:
    value, channels = thin.value, thin.channels
    weight = None if module.weight is None else module.weight[channels]
    bias = None if module.bias is None else module.bias[channels]
    mean = variance = None
    if module.running_mean is not None and module.running_var is not None and not module.training:
        mean, variance = module.running_mean[channels], module.running_var[channels]
    train = isinstance(module, BATCH) and uses_batch_statistics(module)
    if train and value.device.type == "cpu" and lies_in_planes(value):
        found = batch_norm(value, weight, bias, module.eps)
    elif isinstance(module, BATCH):
        # The axis of the channels holds the probes, so each gets its own statistics.
        found = F.batch_norm(value, mean, variance, weight, bias, training=train, eps=module.eps)
    else:
        found = F.instance_norm(
            value, mean, variance, weight, bias, use_input_stats=mean is None, eps=module.eps
        )
    return Thin(found, channels)


def _linear(module: nn.Linear, thin: Thin, x: Tensor, y: Tensor) -> Answer:
    if x.dim() != 2:
        return None  # its channels are counted on the last axis
    weight = module.weight[:, thin.channels].t()
    return (thin.difference(x).t()[..., None] * weight[:, None] + y).flatten(0, 1)


def _conv(conv: Conv, thin: Thin, x: Tensor, y: Tensor) -> Answer:
    """conv(x) + conv_c(difference), neighbouring probes of the same channel together."""
    if conv.groups != 1:
        return None
    apart = thin.difference(x).transpose(0, 1)
    found, first = [], 0
    kernel = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(conv.kernel_size)]
    channels, counts = torch.unique_consecutive(thin.channels, return_counts=True)
    for c, count in zip(channels.tolist(), counts.tolist(), strict=True):
        one = apart[first : first + count].flatten(0, 1)[:, None]
        weight = conv.weight[:, c : c + 1]
        if y.dim() == 4 and y.is_contiguous(memory_format=torch.channels_last):
            weight = weight.contiguous(memory_format=torch.channels_last)  # and so its answer
        share = kernel(pad(conv, one), weight, None, conv.stride, 0, conv.dilation)
        found.append(share.view(count, *y.shape).add_(y).flatten(0, 1))
        first += count
    return torch.cat(found) if len(found) > 1 else found[0]


def _flatten(module: nn.Flatten, thin: Thin, _x: Tensor, _y: Tensor) -> Answer:
    whole = module.start_dim == 1 and module.end_dim == -1
    return flat(thin) if whole else None


_RULES: dict[type[nn.Module], Callable[..., Answer]] = {
    **dict.fromkeys(_BY_CHANNEL, _by_channel),
    **dict.fromkeys((*BATCH, *INSTANCE), _norm),
    **dict.fromkeys(CONVS, _conv),
    nn.MaxPool2d: _max_pool,
    nn.PReLU: _prelu,
    nn.Linear: _linear,
    nn.Flatten: _flatten,
}
