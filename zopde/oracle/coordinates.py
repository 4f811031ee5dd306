"""A network's weights as one vector theta: the number of each entry, and what moving one changes.

A layer's output is linear in its weight, so moving ONE entry by mu gives what the common
weights give, plus mu times ONE (shifted, normalised) input channel, added to ONE output channel:

    y(W + mu e_i) = y(W) + mu x_{source(i)} (x) e_{channel(i)}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zopde.errors import InputError
from zopde.oracle.norms import NORMS, normalised_entry
from zopde.oracle.one_channel import CONVS, Conv, pad, windows
from zopde.validate import check_positive

_SMALLEST_SCALE = 0.1  # of the network's root mean square, where a tensor's own is smaller


@dataclass(frozen=True)
class ParameterSlice:
    """The coordinates of one parameter tensor."""

    name: str  # qualified name in the module, "body.0.weight"
    start: int  # first coordinate
    stop: int  # one past the last coordinate
    shape: tuple[int, ...]  # shape of its real numbers; see `reals`
    is_complex: bool = False  # whether the tensor is


def reals(tensor: Tensor) -> Tensor:
    """The real numbers of a tensor: of a complex one both parts, along a last axis of their own."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def from_reals(numbers: Tensor, like: Tensor) -> Tensor:
    """Turn what `reals` gave back into numbers of the dtype and device of `like`."""
    numbers = numbers.to(reals(like))
    return torch.complex(*numbers.unbind(-1)) if like.is_complex() else numbers


def nudged(weight: Tensor, position: int, step: float) -> Tensor:
    """A copy of a weight, one of its real numbers moved."""
    numbers = reals(weight.detach()).clone(memory_format=torch.contiguous_format)
    numbers.view(-1)[position] += step
    return from_reals(numbers, weight)


def check_flat(name: str, values: Tensor, d: int) -> None:
    """Require one real number, or truth value, for each of d coordinates."""
    if tuple(values.shape) != (d,) or values.is_complex():
        got = f"shape {tuple(values.shape)}{', complex' * values.is_complex()}"
        remedy = "take both parts, as torch.view_as_real has them" * values.is_complex()
        raise InputError(name, got=got, expected=f"({d},)", remedy=remedy)


class Coordinates:
    """Numbers theta: all trainable parameters of `module`, flattened, in the order of its names.

    A complex weight counts twice: its real and its imaginary part are coordinates of their own,
    next to each other. A tied parameter counts once. Indices are int64 throughout.

    Args:
        module: Any `nn.Module`.
    """

    def __init__(self, module: nn.Module) -> None:
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self._tensors = [p for _, p in named]
        self.slices: list[ParameterSlice] = []
        self.total = 0
        for name, tensor in named:
            if nn.parameter.is_lazy(tensor):
                got, remedy = "a lazy layer that has no shape yet", "call the network once, before"
                raise InputError(name, got=got, expected="a tensor of numbers", remedy=remedy)
            shape, start = reals(tensor.detach()).shape, self.total
            self.total += shape.numel()
            held = ParameterSlice(name, start, self.total, tuple(shape), tensor.is_complex())
            self.slices.append(held)

    def split(self, indices: Int[Tensor, " k"]) -> list[tuple[ParameterSlice, Tensor]]:
        """Share sorted `indices` out over the tensors, as positions inside each of them."""
        edges = torch.tensor([s.start for s in self.slices] + [self.total])
        cuts = torch.searchsorted(indices, edges).tolist()
        return [
            (parameter, indices[a:b] - parameter.start)
            for parameter, (a, b) in zip(self.slices, pairwise(cuts), strict=True)
            if b > a
        ]

    def parts(self, name: str, flat: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Every parameter, and its part of `flat`, (d,), in the shape of its real numbers."""
        check_flat(name, flat, self.total)
        for parameter, tensor in zip(self.slices, self._tensors, strict=True):
            yield tensor, flat[parameter.start : parameter.stop].view(parameter.shape)

    def fixed(self, network: nn.Module) -> Bool[Tensor, " d"]:
        """Where the rows of padding are: no gradient of `backward()` moves them.

        Raises:
            InputError: For an embedding that writes to its weights, or whose padding row another
                layer reads, too.
        """
        fixed = torch.zeros(self.total, dtype=torch.bool)
        layers = [m for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
        for tensor, rows in self.parts("fixed", fixed) if layers else ():
            held = sum(p is tensor for m in network.modules() for p in m.parameters(recurse=False))
            for layer in (layer for layer in layers if layer.weight is tensor):
                padding, shared = layer.padding_idx, layer.padding_idx is not None and held > 1
                if layer.max_norm is not None or shared:
                    expected = "weights that a forward leaves alone, padding of one layer's own"
                    got = f"max_norm={layer.max_norm}, padding_idx={padding}, in {held} layers"
                    remedy = "set max_norm to None and call weight.data.renorm_ after each update"
                    remedy = "set padding_idx to None" if shared else remedy
                    raise InputError("nn.Embedding", got=got, expected=expected, remedy=remedy)
                if padding is not None:
                    rows[padding] = True
        return fixed

    def set_gradient(self, gradient: Float[Tensor, " d"]) -> None:
        """Hand a flat gradient to the parameters, as `backward()` would."""
        for tensor, own in self.parts("gradient", gradient):
            tensor.grad = from_reals(own, tensor).clone()


def relative_mu(network: nn.Module, factor: float = 1.0) -> Float[Tensor, " d"]:
    """Give every weight a step in proportion to the weights of its tensor.

        mu_i = factor * max(RMS(w_t), RMS(theta) / 10)   for every weight i of tensor t

    The second term is for tensors at or near zero (a last layer that starts there, a bias after
    its first updates): they would get a step of zero, or one lost in round-off. Where every
    weight is zero, mu_i = factor.

    Args:
        network: Whose trainable weights are probed, as in `WeightOracle`.
        factor: Step as a share of a tensor's root mean square; > 0, such as 1e-2.

    Returns:
        (d,), for `cge(oracle, mu=...)`, at the present weights: call it again after an update.

    Raises:
        InputError: If the factor is not positive.

    Example:
        >>> import torch
        >>> from zopde.oracle import relative_mu
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = layer.weight.data.fill_(-4.0), layer.bias.data.fill_(2.0)
        >>> relative_mu(layer, 1e-2)
        tensor([0.0400, 0.0400, 0.0200])
    """
    check_positive("factor", factor)
    coordinates = Coordinates(network)
    tensors = [reals(attrgetter(s.name)(network).detach()) for s in coordinates.slices]
    squares = [float(tensor.double().square().sum()) for tensor in tensors]
    smallest = _SMALLEST_SCALE * (sum(squares) / max(1, coordinates.total)) ** 0.5
    steps = []
    for tensor, square in zip(tensors, squares, strict=True):
        scale = max((square / max(1, tensor.numel())) ** 0.5, smallest) or 1.0
        steps.append(torch.full((tensor.numel(),), factor * scale, dtype=tensor.dtype))
    return torch.cat(steps) if steps else torch.zeros(0)


@dataclass(frozen=True)
class ProbeBlock:
    """Neighbouring probes of a pass that move entries of the same parameter."""

    parameter: ParameterSlice  # which one
    first: int  # number of the block's first probe in the pass
    positions: Tensor  # (k,) flat positions in the parameter, one per probe
    steps: Tensor  # (k,), by how much each is moved, in the units of the weights

    def __len__(self) -> int:
        return len(self.positions)


class LayerChange(ABC):
    """What the k probes of a block change at one layer: one channel of its output each."""

    def __init__(self, layer: Any, block: ProbeBlock) -> None:  # noqa: ANN401 - of a known type
        self.layer, self.block, self.channels = layer, block, block.positions
        # Over how many of the last axes the channels are counted; 0 if they are axis 1 of a state.
        self.trailing = 1 if isinstance(layer, nn.Linear) else 0
        if isinstance(layer, nn.LayerNorm):
            self.trailing = len(block.parameter.shape)

    @abstractmethod
    def of_probes(self, x: Tensor) -> Tensor:
        """Inputs (k, batch, ...) of each probe -> changes (k, batch, ...), without the channels."""

    def of_base(self, x: Tensor) -> Tensor:
        """An input (batch, channel, ...) that all have in common -> changes (batch, k, ...)."""
        return self.of_probes(x.expand(len(self.block), *x.shape)).transpose(0, 1)

    def moved_channels(self, x: Tensor, y: Tensor) -> Tensor:
        """The moved channels (batch, k, ...) of the common output y, channel-major like y.

        The input is common, too, a convolution's padded.
        """
        return y.transpose(0, 1)[self.channels].transpose(0, 1) + self.of_base(x)

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

    def _times_steps(self, values: Tensor) -> Tensor:
        """(k, ...) values, each times its probe's step."""
        return _along(self.block.steps, values) * values


@final
class BiasChange(LayerChange):
    """A moved bias adds its step."""

    def of_probes(self, x: Tensor) -> Tensor:
        """The step itself."""
        one_channel = x.flatten(-self.trailing)[..., 0] if self.trailing else x[:, :, 0]
        return _along(self.block.steps, one_channel)


@final
class NormWeightChange(LayerChange):
    """A norm's moved weight adds its step times the channel, normalised."""

    def of_probes(self, x: Tensor) -> Tensor:
        """Step times normalised channel."""
        return self._times_steps(normalised_entry(self.layer, x, self.channels))


@final
class LinearWeightChange(LayerChange):
    """A linear layer's moved weight adds its step times the input that it reads."""

    def __init__(self, layer: nn.Linear, block: ProbeBlock) -> None:
        super().__init__(layer, block)
        self.channels, self.sources = torch.unravel_index(block.positions, block.parameter.shape)

    def of_probes(self, x: Tensor) -> Tensor:
        """Step times input."""
        return self._times_steps(x[torch.arange(len(self.sources)), ..., self.sources])

    def of_base(self, x: Tensor) -> Tensor:
        """Step times input."""
        return self.block.steps.to(x) * x[:, self.sources]


class WeightStep(NamedTuple):
    """One moved weight of a convolution."""

    channel: int  # the output channel that it changes
    source: int  # the input channel that it reads
    tap: tuple[int, ...]  # its place in the kernel
    step: float  # by how much it is moved


@final
class ConvWeightChange(LayerChange):
    """A convolution's moved weight adds its step times the input channel, as its tap sees it."""

    def __init__(self, layer: Conv, block: ProbeBlock) -> None:
        super().__init__(layer, block)
        shape = block.parameter.shape
        self.channels, source, *self.taps = torch.unravel_index(block.positions, shape)
        # With groups, the weight counts its input channels from the group's first one.
        group = self.channels // (layer.out_channels // layer.groups)
        self.sources = source + group * (layer.in_channels // layer.groups)

    def of_probes(self, x: Tensor) -> Tensor:
        """Step times what the tap sees."""
        rows = torch.arange(len(self.sources))
        return self._seen(x[rows, :, self.sources].transpose(0, 1), rows).transpose(0, 1)

    def of_base(self, x: Tensor) -> Tensor:
        """Step times what the tap sees."""
        # Neighbouring probes mostly differ in the tap alone: pad each channel once.
        needed, which = torch.unique(self.sources, return_inverse=True)
        return self._seen(x[:, needed], which)

    def _seen(self, x: Tensor, which: Tensor) -> Tensor:
        """Of some channels (batch, channel, ...): number `which`, as each tap sees it."""
        index: tuple[Any, ...] = (slice(None), which, *self.taps)
        seen = windows(self.layer, pad(self.layer, x))[index]
        return _along(self.block.steps, seen[0]) * seen

    def moved_channels(self, x: Tensor, y: Tensor) -> Tensor:
        """One by one: each is a sum of two stretches of memory, which no index gathers first."""
        seen = windows(self.layer, x)
        steps = self.steps()
        moved = y.new_empty(len(steps), len(y), *y.shape[2:])
        for step, channel in zip(steps, moved, strict=True):
            at: tuple[Any, ...] = (slice(None), step.source, *step.tap)
            torch.add(y[:, step.channel], seen[at], alpha=step.step, out=channel)
        return moved.transpose(0, 1)

    def steps(self) -> list[WeightStep]:
        """The moved weights, one a probe."""
        taps = zip(*(tap.tolist() for tap in self.taps), strict=True)
        columns = (self.channels.tolist(), self.sources.tolist(), taps, self.block.steps.tolist())
        return [WeightStep(*row) for row in zip(*columns, strict=True)]


CHANGES: dict[tuple[type[nn.Module], str], type[LayerChange]] = {
    **{(kind, "bias"): BiasChange for kind in (nn.Linear, *CONVS, *NORMS)},
    **{(kind, "weight"): NormWeightChange for kind in NORMS},
    **{(kind, "weight"): ConvWeightChange for kind in CONVS},
    (nn.Linear, "weight"): LinearWeightChange,
}
"""Exact type of a layer (a subclass may use its weight in another way) and name of a parameter
there -> what its moved entries change."""


class Use(NamedTuple):
    """A layer where a parameter acts, and what its moved entries change there."""

    layer: nn.Module
    rule: type[LayerChange]

    def change(self, block: ProbeBlock) -> LayerChange:
        """What the block's weights change."""
        return self.rule(self.layer, block)


def _along(values: Tensor, like: Tensor) -> Tensor:
    """(k,) -> (k, 1, 1, ...), with the dtype, device and number of axes of `like`."""
    return values.to(like).view(-1, *[1] * (like.dim() - 1))
