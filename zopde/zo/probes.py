"""Coordinate probes of a module, side by side in one forward.

A weight moved by mu is a rank-one change: the layer's output is what the common weights give,
plus mu times ONE (shifted) input channel, added to ONE output channel. So a stacked batch of
probes passes every layer once, with the common weights, and each layer then adds its own
probes' share. No weight is copied and no convolution is grouped by probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.errors import InputError
from zopde.zo.coordinates import Slot
from zopde.zo.norms import (
    BATCH,
    INSTANCE,
    NORMS,
    normalised_entry,
    statistics_per_probe,
    updates_statistics,
)

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Site:
    """A place where a parameter acts: one module of the network and the role it plays there."""

    module: nn.Module
    role: str


@dataclass(frozen=True)
class Block:
    """Neighbouring probes of a chunk that move entries of the same parameter.

    Args:
        slot: The parameter.
        first: Number of the block's first probe in the chunk.
        positions: (k,) flat positions in the parameter, one per probe.
    """

    slot: Slot
    first: int
    positions: Tensor


def rank_one_sites(module: nn.Module) -> dict[str, list[Site]]:
    """Where each parameter acts, for those whose every use has a rank-one rule.

    A layer that draws random numbers (Dropout in train mode), writes its own statistics, or
    couples the states of a batch in a way not known here makes stacked probes wrong, so a
    network with one has no sites at all until it is in eval mode. BatchNorm in train mode is
    known: `statistics_per_probe`.
    """
    if any(_forbids_stacking(part) for part in module.modules()):
        return {}
    uses: dict[int, list[Site]] = {}
    for part in module.modules():
        for role, parameter in part.named_parameters(recurse=False):
            uses.setdefault(id(parameter), []).append(Site(part, role))
    return {
        name: uses[id(parameter)]
        for name, parameter in module.named_parameters()
        if all(_rule_for(site) for site in uses[id(parameter)])
    }


Share = Callable[[Tensor, Tensor], None]
"""add_share(x, y): adds what k probes change at a layer, from (k, batch, ...) inputs in place."""


def share(site: Site, block: Block, mu: float) -> Share:
    """What moving the block's weights by mu adds to the output at one place."""
    rule = _rule_for(site)
    assert rule is not None
    return rule(site.module, block, mu)


def never_called(block: Block) -> InputError:
    """A moved weight whose layer never ran is used in some other way, or not at all."""
    return InputError(
        f"parameter {block.slot.name!r}",
        got="a layer that the objective never calls",
        expected="weights used through their layer's forward",
        remedy="freeze it (requires_grad_(False)) or pass stacked=False",
    )


@contextmanager
def stacked(
    network: nn.Module,
    sites: dict[str, list[Site]],
    blocks: list[Block],
    num_probes: int,
    mu: float,
) -> Iterator[None]:
    """Inside this context the network's batch axis holds `num_probes` probes, probe-major.

    Raises:
        InputError: On leaving, if a moved parameter's layer was never called.
    """
    called: set[str] = set()
    with ExitStack() as stack, statistics_per_probe(network, lambda x: len(x) // num_probes):
        for block in blocks:
            for site in sites[block.slot.name]:
                hook = _hook(share(site, block, mu), block, num_probes, called)
                stack.callback(site.module.register_forward_hook(hook).remove)
        yield
    for block in blocks:
        if block.slot.name not in called:
            raise never_called(block)


def _forbids_stacking(part: nn.Module) -> bool:
    if isinstance(part, nn.modules.batchnorm._NormBase) and type(part) not in NORMS:
        return part.training or part.running_mean is None
    random = isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0
    return random or updates_statistics(part)


def _rule_for(site: Site) -> Callable[..., Share] | None:
    # The exact type: a subclass may use its weight in another way.
    kind = type(site.module)
    if kind is nn.Linear:
        return {"weight": _linear_weight, "bias": _linear_bias}[site.role]
    if kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return {"weight": _conv_weight, "bias": _channel_bias}[site.role]
    if kind in (*BATCH, *INSTANCE, nn.GroupNorm):
        return {"weight": _norm_weight, "bias": _channel_bias}[site.role]
    if kind is nn.LayerNorm:
        return {"weight": _norm_weight, "bias": _layer_norm_bias}[site.role]
    return None


def _hook(
    add_share: Share, block: Block, num_probes: int, called: set[str]
) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        called.add(block.slot.name)
        add_share(_probes(args[0], block, num_probes), _probes(output, block, num_probes))

    return hook


def _probes(stacked_batch: Tensor, block: Block, num_probes: int) -> Tensor:
    """The block's part of a stacked batch, as a view (k, batch, ...)."""
    if len(stacked_batch) % num_probes:
        raise InputError(
            f"batch axis at {block.slot.name!r}",
            got=len(stacked_batch),
            expected=f"a multiple of the {num_probes} probes, as the first axis",
        )
    apart = stacked_batch.view(num_probes, -1, *stacked_batch.shape[1:])
    return apart[block.first : block.first + len(block.positions)]


def _linear_weight(_: nn.Linear, block: Block, mu: float) -> Share:
    out, source = torch.unravel_index(block.positions, block.slot.shape)
    rows = torch.arange(len(out))

    def add_share(x: Tensor, y: Tensor) -> None:
        y[rows, ..., out] += mu * x[rows, ..., source]

    return add_share


def _linear_bias(_: nn.Linear, block: Block, mu: float) -> Share:
    rows = torch.arange(len(block.positions))

    def add_share(_: Tensor, y: Tensor) -> None:
        y[rows, ..., block.positions] += mu

    return add_share


def _channel_bias(_: nn.Module, block: Block, mu: float) -> Share:
    rows = torch.arange(len(block.positions))

    def add_share(_: Tensor, y: Tensor) -> None:
        y[rows, :, block.positions] += mu

    return add_share


def _norm_weight(norm: nn.Module, block: Block, mu: float) -> Share:
    rows, entry = torch.arange(len(block.positions)), normalised_entry(norm)
    axes = len(block.slot.shape) if isinstance(norm, nn.LayerNorm) else 0

    def add_share(x: Tensor, y: Tensor) -> None:
        moved = mu * entry(x, rows, block.positions)
        if axes:
            y.flatten(-axes)[rows, ..., block.positions] += moved
        else:
            y[rows, :, block.positions] += moved

    return add_share


def _layer_norm_bias(_: nn.LayerNorm, block: Block, mu: float) -> Share:
    rows, axes = torch.arange(len(block.positions)), len(block.slot.shape)

    def add_share(_: Tensor, y: Tensor) -> None:
        y.flatten(-axes)[rows, ..., block.positions] += mu

    return add_share


def _conv_weight(conv: Conv, block: Block, mu: float) -> Share:
    out, source, *taps = torch.unravel_index(block.positions, block.slot.shape)
    # With groups, the weight counts its input channels from the group's first one.
    group = out // (conv.out_channels // conv.groups)
    source = source + group * (conv.in_channels // conv.groups)
    # Probes that move the same kernel tap see the same shift, so they go together.
    by_tap = []
    for tap in product(*(range(k) for k in conv.kernel_size)):
        hits = [t == i for t, i in zip(taps, tap, strict=True)]
        rows = torch.stack(hits).all(dim=0).nonzero().flatten()
        if len(rows):
            by_tap.append((tap, rows))
    pads = _pads(conv)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode

    def add_share(x: Tensor, y: Tensor) -> None:
        size = y.shape[3:]
        for tap, rows in by_tap:
            moved = x[rows, :, source[rows]]
            moved = F.pad(moved, pads, mode=mode) if any(pads) else moved
            window = tuple(
                slice(i * d, i * d + (n - 1) * s + 1, s)
                for i, d, s, n in zip(tap, conv.dilation, conv.stride, size, strict=True)
            )
            y[rows, :, out[rows]] += mu * moved[(slice(None), slice(None), *window)]

    return add_share


def _pads(conv: Conv) -> list[int]:
    """Padding as `F.pad` wants it: last dimension first, before and after."""
    pads: list[int] = []
    for axis in reversed(range(len(conv.kernel_size))):
        if conv.padding == "valid":
            before = after = 0
        elif conv.padding == "same":
            total = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = int(conv.padding[axis])
        pads += [before, after]
    return pads
