"""What a moved weight changes at its layer: one channel of the output.

A layer's output is linear in its weight, so moving ONE entry by mu gives what the common
weights give, plus mu times ONE (shifted, normalised) input channel, added to ONE output channel:

    y(W + mu e_i) = y(W) + mu x_{source(i)} (x) e_{channel(i)}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.errors import InputError
from zopde.oracle.coordinates import Slot
from zopde.oracle.norms import BATCH, INSTANCE, normalised_entry

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Site:
    """A place where a parameter acts: one module of the network and the role it plays there."""

    module: nn.Module
    role: str


@dataclass(frozen=True)
class Block:
    """Neighbouring probes of a pass that move entries of the same parameter.

    Args:
        slot: The parameter.
        first: Number of the block's first probe in the pass.
        positions: (k,) flat positions in the parameter, one per probe.
        steps: (k,), by how much each is moved, in the units of the weights.
    """

    slot: Slot
    first: int
    positions: Tensor
    steps: Tensor

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Move:
    """One moved weight of a convolution.

    Args:
        channel: The output channel that it changes.
        source: The input channel that it reads.
        tap: Its place in the kernel.
        step: By how much it is moved.
    """

    channel: int
    source: int
    tap: tuple[int, ...]
    step: float


@final
@dataclass(frozen=True)
class Share:
    """What the k probes of a block change at one layer.

    Args:
        channels: (k,), the output channel that each changes.
        of_probes: (k, batch, ...) inputs, one stretch per probe -> (k, batch, ...) changes,
            without the channel axis.
        of_base: (batch, channel, ...) input that all probes have in common
            -> (batch, k, ...) changes: the probes stand where the channels stood.
        trailing: Over how many of the last axes the channels are counted; 0 if they are axis 1
            of a state.
        moves: The moved weights of a convolution, one a probe; None elsewhere.
        is_bias: Whether each change is the step itself.
    """

    channels: Tensor
    of_probes: Callable[[Tensor], Tensor]
    of_base: Callable[[Tensor], Tensor]
    trailing: int = 0
    moves: Callable[[], list[Move]] | None = None
    is_bias: bool = False

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the changes to outputs (k, batch, ...) in place, from inputs (k, batch, ...)."""
        rows = torch.arange(len(self.channels))
        if self.trailing:
            # A view or an error: a silent copy would lose what is added.
            flat = y.view(*y.shape[: y.dim() - self.trailing], -1)
            flat[rows, ..., self.channels] += self.of_probes(x)
        else:
            y[rows, :, self.channels] += self.of_probes(x)

    def channels_first(self, y: Tensor) -> bool:
        """Whether axis 1 of an output (batch, ...) counts the channels."""
        return not self.trailing or y.dim() == 1 + self.trailing == 2


def share(site: Site, block: Block) -> Share:
    """What moving the block's weights adds to the output at one place."""
    rule = rule_for(site)
    assert rule is not None
    return rule(site.module, block)


def rule_for(site: Site) -> Callable[..., Share] | None:
    """The rule for a parameter in its role, None where there is none."""
    # The exact type: a subclass may use its weight in another way.
    kind = type(site.module)
    if kind is nn.Linear:
        return {"weight": _linear_weight, "bias": _bias}[site.role]
    if kind in CONVS:
        return {"weight": _conv_weight, "bias": _bias}[site.role]
    if kind in (*BATCH, *INSTANCE, nn.GroupNorm, nn.LayerNorm):
        return {"weight": _norm_weight, "bias": _bias}[site.role]
    return None


def _along(values: Tensor, like: Tensor) -> Tensor:
    """(k,) -> (k, 1, 1, ...), with the dtype, device and number of axes of `like`."""
    return values.to(like).view(-1, *[1] * (like.dim() - 1))


def _counted_last(module: nn.Module, block: Block) -> int:
    if isinstance(module, nn.LayerNorm):
        return len(block.slot.shape)
    return 1 if isinstance(module, nn.Linear) else 0


def _bias(module: nn.Module, block: Block) -> Share:
    trailing = _counted_last(module, block)

    def of_probes(x: Tensor) -> Tensor:
        one_channel = x.flatten(-trailing)[..., 0] if trailing else x[:, :, 0]
        return _along(block.steps, one_channel)

    def of_base(x: Tensor) -> Tensor:
        return _along(block.steps, x[0])[None]

    return Share(block.positions, of_probes, of_base, trailing, is_bias=True)


def _norm_weight(norm: nn.Module, block: Block) -> Share:
    rows, entry = torch.arange(len(block)), normalised_entry(norm)

    def of_probes(x: Tensor) -> Tensor:
        normalised = entry(x, rows, block.positions)
        return _along(block.steps, normalised) * normalised

    return Share(
        block.positions, of_probes, _by_repeating(of_probes, block), _counted_last(norm, block)
    )


def _linear_weight(_: nn.Linear, block: Block) -> Share:
    out, source = torch.unravel_index(block.positions, block.slot.shape)
    rows = torch.arange(len(out))

    def of_probes(x: Tensor) -> Tensor:
        moved = x[rows, ..., source]
        return _along(block.steps, moved) * moved

    def of_base(x: Tensor) -> Tensor:
        return block.steps.to(x) * x[:, source]

    return Share(out, of_probes, of_base, trailing=1)


def _conv_weight(conv: Conv, block: Block) -> Share:
    out, source, *taps = torch.unravel_index(block.positions, block.slot.shape)
    # With groups, the weight counts its input channels from the group's first one.
    source = source + out // (conv.out_channels // conv.groups) * (conv.in_channels // conv.groups)
    rows = torch.arange(len(out))

    def shifted(x: Tensor, which: Tensor) -> Tensor:
        """(batch, some channels, ...) -> (batch, k, ...): channel `which`, as its tap sees it."""
        index: tuple[Any, ...] = (slice(None), which, *taps)
        moved = _windows(conv, pad(conv, x))[index]
        return _along(block.steps, moved[0]) * moved

    def of_probes(x: Tensor) -> Tensor:
        return shifted(x[rows, :, source].transpose(0, 1), rows).transpose(0, 1)

    def of_base(x: Tensor) -> Tensor:
        # Neighbouring probes mostly differ in the tap alone: pad each channel once.
        needed, which = torch.unique(source, return_inverse=True)
        return shifted(x[:, needed], which)

    def moves() -> list[Move]:
        places = zip(*(tap.tolist() for tap in taps), strict=True)
        read = zip(out.tolist(), source.tolist(), places, block.steps.tolist(), strict=True)
        return [Move(*one) for one in read]

    return Share(out, of_probes, of_base, moves=moves)


def moved_planes(conv: Conv, moves: list[Move], padded: Tensor, y: Tensor) -> Tensor:
    """The probes' channels of a convolution's output.

    Args:
        conv: The convolution.
        moves: One a probe.
        padded: (batch, channel, ...), its padded input, best lying in planes.
        y: (batch, channel, ...), its output, likewise.

    Returns:
        (batch, probe, ...), lying in planes.
    """
    windows = _windows(conv, padded)
    found = y.new_empty(len(moves), len(y), *y.shape[2:])
    for move, place in zip(moves, found, strict=True):
        at: tuple[Any, ...] = (slice(None), move.source, *move.tap)
        torch.add(y[:, move.channel], windows[at], alpha=move.step, out=place)
    return found.transpose(0, 1)


def _by_repeating(
    of_probes: Callable[[Tensor], Tensor], block: Block
) -> Callable[[Tensor], Tensor]:
    return lambda x: of_probes(x.expand(len(block), *x.shape)).transpose(0, 1)


def pad(conv: Conv, x: Tensor) -> Tensor:
    """(batch, any channels, ...) with the convolution's padding around it."""
    pads = _pads(conv)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, pads, mode=mode) if any(pads) else x


def _windows(conv: Conv, padded: Tensor) -> Tensor:
    """(batch, channel, *padded) -> (batch, channel, *kernel, *out): what each tap reads; a view."""
    n = len(conv.kernel_size)
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    sizes = zip(padded.shape[2:], reach, conv.stride, strict=True)
    out = [(size - r - 1) // s + 1 for size, r, s in sizes]
    steps = padded.stride()[2:]
    strides = [
        *padded.stride()[:2],
        *(steps[i] * conv.dilation[i] for i in range(n)),
        *(steps[i] * conv.stride[i] for i in range(n)),
    ]
    shape = [*padded.shape[:2], *conv.kernel_size, *out]
    return padded.as_strided(shape, strides, padded.storage_offset())


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


def never_called(block: Block) -> InputError:
    """A moved weight whose layer never ran is used in some other way, or not at all."""
    return InputError(
        f"parameter {block.slot.name!r}",
        got="a layer that the objective never calls",
        expected="weights used through their layer's forward",
        remedy="freeze it (requires_grad_(False)) or pass stacked=False",
    )
