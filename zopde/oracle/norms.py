"""Norm layers in a stacked batch: rank-one rules for their weights, statistics per probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.oracle.per_channel import moments

BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
NORMS = (*BATCH, *INSTANCE, nn.GroupNorm, nn.LayerNorm)

Channel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, rows, entries) -> the normalised input, before weight and bias, of one entry per probe."""


def normalised_entry(module: nn.Module) -> Channel:
    """What a moved weight of a norm layer multiplies.

    All norms here are y = w * xhat + b with w and b per channel (LayerNorm: per entry), so
    moving one weight by mu adds mu * xhat of ITS channel, and moving a bias adds mu.

    Returns:
        A function of x (k, batch, ...), rows (k,) and entries (k,) that gives (k, batch, ...)
        without the channel axis (LayerNorm: without the normalised axes).
    """
    if isinstance(module, nn.LayerNorm):
        return _layer(module)
    if isinstance(module, nn.GroupNorm):
        return _group(module)
    if isinstance(module, INSTANCE):
        return _instance(module)
    assert isinstance(module, BATCH)
    return _batch(module)


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a BatchNorm's answer for one state depends on the other states of the batch."""
    return isinstance(module, BATCH) and (module.training or module.running_mean is None)


def updates_statistics(module: nn.Module) -> bool:
    """Whether an InstanceNorm would write its running statistics when called."""
    return isinstance(module, INSTANCE) and module.training and module.track_running_stats


@contextmanager
def statistics_per_probe(network: nn.Module, states_of: Callable[[Tensor], int]) -> Iterator[None]:
    """Inside this context every BatchNorm in train mode normalises each probe on its own.

    Running statistics are neither read nor written.

    Args:
        network: Whose layers are meant.
        states_of: A stacked input of a layer -> how many of its states belong to one probe.
    """
    with ExitStack() as stack:
        for module in network.modules():
            if uses_batch_statistics(module):
                # An attribute of the instance hides the class's forward until it is deleted.
                module.forward = _per_probe(module, states_of)
                stack.callback(delattr, module, "forward")
        yield


def _per_probe(module: nn.Module, states_of: Callable[[Tensor], int]) -> Callable[[Tensor], Tensor]:
    assert isinstance(module, BATCH)

    def forward(x: Tensor) -> Tensor:
        # Written where it is to lie: joining the probes afterwards would copy it all once more.
        answer, size = torch.empty_like(x), states_of(x)
        unused = x.new_empty(x.shape[1])
        for part, out in zip(x.split(size), answer.split(size), strict=True):
            torch.native_batch_norm(
                part,
                module.weight,
                module.bias,
                None,
                None,
                True,
                0.0,
                module.eps,
                out=(out, unused, unused.clone()),
            )
        return answer

    return forward


def _batch(module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> Channel:
    if uses_batch_statistics(module):

        def from_batch(x: Tensor, rows: Tensor, entries: Tensor) -> Tensor:
            channel = x[rows, :, entries]
            mean, variance = moments(channel)
            return _scaled(channel, mean, variance, module.eps)

        return from_batch

    def from_running(x: Tensor, rows: Tensor, entries: Tensor) -> Tensor:
        assert module.running_mean is not None
        assert module.running_var is not None
        mean, variance = module.running_mean[entries], module.running_var[entries]
        return _scaled(x[rows, :, entries], mean, variance, module.eps)

    return from_running


def _scaled(channel: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    shape = (-1, *[1] * (channel.dim() - 1))
    return (channel - mean.view(shape)) * torch.rsqrt(variance + eps).view(shape)


def _instance(module: nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d) -> Channel:
    running = not module.training and module.running_mean is not None

    def of(x: Tensor, rows: Tensor, entries: Tensor) -> Tensor:
        channel = x[rows, :, entries]
        if running:
            assert module.running_mean is not None
            assert module.running_var is not None
            mean, variance = module.running_mean[entries], module.running_var[entries]
            return _scaled(channel, mean, variance, module.eps)
        over = tuple(range(2, channel.dim()))
        variance, mean = torch.var_mean(channel, dim=over, correction=0, keepdim=True)
        return (channel - mean) * torch.rsqrt(variance + module.eps)

    return of


def _group(module: nn.GroupNorm) -> Channel:
    def of(x: Tensor, rows: Tensor, entries: Tensor) -> Tensor:
        moved = x[rows]
        xhat = F.group_norm(moved.flatten(0, 1), module.num_groups, None, None, module.eps)
        return xhat.view_as(moved)[torch.arange(len(rows)), :, entries]

    return of


def _layer(module: nn.LayerNorm) -> Channel:
    size = list(module.normalized_shape)

    def of(x: Tensor, rows: Tensor, entries: Tensor) -> Tensor:
        xhat = F.layer_norm(x[rows], size, None, None, module.eps)
        flat = xhat.flatten(-len(size))
        return flat[torch.arange(len(rows)), ..., entries]

    return of
