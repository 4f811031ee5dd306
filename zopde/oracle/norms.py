"""Norm layers: what their weights multiply, one channel through them, statistics per probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.oracle.one_channel import (
    Answer,
    OneChannel,
    Rule,
    Visit,
    batch_norm,
    is_channel_major,
    moments,
)

BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
NORMS = (*BATCH, *INSTANCE, nn.GroupNorm, nn.LayerNorm)


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a BatchNorm's answer for one state depends on the other states of the batch."""
    return isinstance(module, BATCH) and (module.training or module.running_mean is None)


@contextmanager
def statistics_per_probe(
    layers: Iterable[nn.Module], states_of: Callable[[Tensor], int]
) -> Iterator[None]:
    """Inside this context every BatchNorm in train mode normalises each probe on its own.

    Running statistics are neither read nor written. `states_of` says of a stacked input how many
    of its states belong to one probe.
    """
    with ExitStack() as stack:
        for layer in layers:
            if uses_batch_statistics(layer):
                # An attribute of the instance hides the class's forward until it is deleted.
                layer.forward = _forward_per_probe(layer, states_of)
                stack.callback(delattr, layer, "forward")
        yield


def _forward_per_probe(norm: Any, states_of: Callable[[Tensor], int]) -> Callable[[Tensor], Tensor]:  # noqa: ANN401
    def forward(x: Tensor) -> Tensor:
        # Written where it is to lie: joining the probes afterwards would copy it all once more.
        answer, size = torch.empty_like(x), states_of(x)
        unused = x.new_empty(x.shape[1])
        for states, out in zip(x.split(size), answer.split(size), strict=True):
            to = (out, unused, unused.clone())
            weight, bias, eps = norm.weight, norm.bias, norm.eps
            torch.native_batch_norm(states, weight, bias, None, None, True, 0.0, eps, out=to)
        return answer

    return forward


def normalised_entry(norm: Any, x: Tensor, entries: Tensor) -> Tensor:  # noqa: ANN401
    """What the moved weights of a norm layer multiply.

    All norms here are y = w * xhat + b with w and b per channel (LayerNorm: per entry), so
    moving one weight by mu adds mu * xhat of ITS channel, and moving a bias adds mu.

    Args:
        norm: The layer, one of `NORMS`.
        x: (k, batch, ...), the inputs of k probes.
        entries: (k,), the moved entry of each.

    Returns:
        (k, batch, ...), xhat without the channel axis (LayerNorm: without the normalised axes).
    """
    rows = torch.arange(len(entries))
    if isinstance(norm, nn.LayerNorm):
        xhat = F.layer_norm(x[rows], list(norm.normalized_shape), None, None, norm.eps)
        return xhat.flatten(-len(norm.normalized_shape))[rows, ..., entries]
    if isinstance(norm, nn.GroupNorm):
        states = x[rows].flatten(0, 1)
        xhat = F.group_norm(states, norm.num_groups, None, None, norm.eps)
        return xhat.view_as(x)[rows, :, entries]
    channel = x[rows, :, entries]
    if not norm.training and norm.running_mean is not None:
        return _scaled(channel, norm.running_mean[entries], norm.running_var[entries], norm.eps)
    if isinstance(norm, BATCH):
        return _scaled(channel, *moments(channel), norm.eps)
    axes = tuple(range(2, channel.dim()))
    variance, mean = torch.var_mean(channel, dim=axes, correction=0, keepdim=True)
    return (channel - mean) * torch.rsqrt(variance + norm.eps)


def _scaled(channel: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    shape = (-1, *[1] * (channel.dim() - 1))
    return (channel - mean.view(shape)) * torch.rsqrt(variance + eps).view(shape)


def _one_channel(visit: Visit) -> Answer:
    """The axis of the channels holds the probes, so each gets its own statistics."""
    norm, value, channels = visit.layer, visit.first.value, visit.first.channels
    weight, bias, mean, variance = (
        None if tensor is None else tensor[channels]
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    if norm.training or mean is None or variance is None:
        mean = variance = None
    train = uses_batch_statistics(norm)
    if train and value.device.type == "cpu" and is_channel_major(value):
        answer = batch_norm(value, weight, bias, norm.eps)
    elif isinstance(norm, BATCH):
        answer = F.batch_norm(value, mean, variance, weight, bias, training=train, eps=norm.eps)
    else:
        answer = F.instance_norm(
            value, mean, variance, weight, bias, use_input_stats=mean is None, eps=norm.eps
        )
    return OneChannel(answer, channels)


RULES: dict[type[nn.Module], Rule] = dict.fromkeys((*BATCH, *INSTANCE), _one_channel)
"""Type of a norm -> how probes of one channel pass it."""
