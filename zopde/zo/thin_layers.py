"""Thin values through layers: by channel where the layer allows, widened where it mixes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.zo.norms import BATCH, INSTANCE, uses_batch_statistics
from zopde.zo.planes import batch_norm, lies_in_planes, max_pool, plane_by_plane
from zopde.zo.rank_one import CONVS, Conv, pad
from zopde.zo.thin import Answer, Thin, flat

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
