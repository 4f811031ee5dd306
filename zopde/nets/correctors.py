"""Correctors: from a state and its forcing to what must be added to either."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zopde.errors import InputError
from zopde.validate import check_choice, check_count, check_not_negative, checked

Padding = str | tuple[str, ...]  # "periodic" or "zero"; one word, or one for each axis
Inject = Literal["after", "before", "forcing", "parameter"]
_MOST = 10_000  # of whatever a corrector has
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MESH = ("edges", "positions")
"""What a network on a mesh is built from, by the names of its arguments."""


@final
class ConvCorrector(nn.Module):
    """Corrects a state by a plain stack of convolutions with GELU between them.

    With 4 input and 2 output channels, width 8 and depth 3 it has 1,026 parameters. The last
    layer starts at zero, so training starts from the uncorrected solver.

    Args:
        inputs: Input channels (state and forcing together).
        outputs: Output channels (those of the state).
        width: Channels of every hidden layer.
        depth: Number of convolutions, >= 1.
        kernel: Odd width of every kernel, in cells.
        padding: "periodic" or "zero"; one word, or one for each axis.
        dims: Number of space dimensions: 1, 2 or 3.
    """

    @checked
    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 8,
        depth: int = 3,
        kernel: int = 3,
        padding: Padding = "periodic",
        dims: int = 2,
    ) -> None:
        super().__init__()
        check_sizes(inputs=inputs, outputs=outputs, width=width, depth=depth, kernel=kernel)
        self.padding = padding
        layers: list[nn.Module] = []
        for before, after in pairwise([inputs, *[width] * (depth - 1), outputs]):
            layers += [_conv(before, after, kernel, padding, dims), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        start_at_zero(layers[-2])

    def forward(self, x: Float[Tensor, "b i *space"]) -> Float[Tensor, "b o *space"]:
        """Normalised channels -> a normalised correction."""
        correction: Tensor = self.layers(x)
        return correction


@final
class ResidualCorrector(nn.Module):
    """Corrects a state by the residual network of Solver-in-the-Loop.

    It is "mars_moon" of Um et al. 2020:

        conv5x5, then `blocks` times  x + conv5x5(act(conv5x5(x))) -> act, then conv5x5

    With 4 inputs, 2 outputs, width 32 and 5 blocks it has 261,154 parameters; act is
    LeakyReLU with slope 0.3, that code's default. Unlike there, the last layer starts at zero
    and padding may be periodic. `inputs`, `outputs`, `width`, `kernel`, `padding` and `dims` are
    those of `ConvCorrector`; `blocks` is the number of residual blocks. In three dimensions the
    kernels are cubes: 125 weights each, so take fewer channels.
    """

    @checked
    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 32,
        blocks: int = 5,
        kernel: int = 5,
        padding: Padding = "periodic",
        dims: int = 2,
    ) -> None:
        super().__init__()
        check_sizes(inputs=inputs, outputs=outputs, width=width, blocks=blocks, kernel=kernel)
        self.padding = padding
        self.enter = _conv(inputs, width, kernel, padding, dims)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                _conv(width, width, kernel, padding, dims),
                nn.LeakyReLU(0.3),
                _conv(width, width, kernel, padding, dims),
            )
            for _ in range(blocks)
        )
        self.leave = _conv(width, outputs, kernel, padding, dims)
        self.activation = nn.LeakyReLU(0.3)
        start_at_zero(self.leave)

    def forward(self, x: Float[Tensor, "b i *space"]) -> Float[Tensor, "b o *space"]:
        """Normalised channels -> a normalised correction."""
        x = self.activation(self.enter(x))
        for block in self.blocks:
            x = self.activation(x + block(x))
        correction: Tensor = self.leave(x)
        return correction


@final
class Normalised(nn.Module):
    """Lets a corrector work in physical units, and keeps the statistics that this takes.

        C(v, f) = s * body( [v / s_v, f / s_f, (g - m) / s_g, fixed] )

    The standard deviations are buffers, saved with the weights: whoever loads the model has
    them. s is s_v; s_f for a correction of the forcing; 1 for the exponent of a parameter. Where
    there is a mask, the body sees 0 outside of it, and the mask as its last channel; the
    correction is 0 there.

    Args:
        body: Maps (batch, state + forcing channels, *space) to (batch, state channels, *space),
            or to as many channels as the forcing has.
        state_scale: (channel,), training standard deviation of every state channel.
        forcing_scale: (forcing_channel,), likewise; empty without forcing.
        dims: Number of space dimensions.
        inject: "after", "before", "forcing" or "parameter": where the correction belongs; see
            `CorrectedSolver`.
        mask: True where there is fluid, as in `zopde.Grid`; None: everywhere.
        nearest: (cell,), the number of the cell whose value the body sees in each, in place of 0
            outside of the mask, as `Grid.nearest`; None: 0.
        mesh: "edges" and "positions" of a `zopde.Mesh`, kept with the weights: whoever builds the
            body again needs them; None on a grid.
        every: Solver steps to a correction, as it is trained for; see `CorrectedSolver`.
        fixed: (fixed_channel, *space), further channels that the body sees, the same beside every
            state and kept with the weights, such as `zopde.nets.coordinate_channels(grid)`; None:
            none. A mask comes behind them.
        told: Name -> mean m of each forcing channel g that the network sees and the solver is not
            given; they are the last of the forcing, and a correction of the forcing is 0 for them.
            See `zopde.hybrid.Told`.
        history: Earlier states that the body sees as well, the newest first, divided by s_v; they
            come as further channels of the forcing, behind all others. See `CorrectedSolver`.
    """

    state_scale: Tensor
    input_scale: Tensor
    output_scale: Tensor | None
    mask: Tensor | None
    nearest: Tensor | None
    fixed: Tensor | None
    mean: Tensor | None

    @checked
    def __init__(
        self,
        body: nn.Module,
        state_scale: Float[Tensor, " channel"],
        forcing_scale: Float[Tensor, " forcing_channel"],
        dims: int = 2,
        inject: Inject = "after",
        mask: Bool[Tensor, "*space"] | None = None,
        nearest: Int[Tensor, " cells"] | None = None,
        mesh: Mapping[str, Tensor] | None = None,
        every: int = 1,
        fixed: Float[Tensor, "fixed_channel ..."] | None = None,
        told: Mapping[str, float] | None = None,
        history: int = 0,
    ) -> None:
        super().__init__()
        check_count("every", every)
        check_not_negative("history", history)
        self.body, self.inject, self.every, self.history = body, inject, every, history
        self.told = tuple(told or {})
        # Kept in the shape that divides a state, so that torch.fx can follow `forward`.
        space = [1] * dims
        self.register_buffer("state_scale", state_scale.reshape(-1, *space).clone())
        past = state_scale.flatten().repeat(history)
        both = torch.cat([state_scale.flatten(), forcing_scale.flatten(), past])
        self.register_buffer("input_scale", both.reshape(-1, *space))
        own, before = len(forcing_scale) - len(self.told), len(both) - len(past) - len(self.told)
        mean = [both.new_zeros(before), both.new_tensor([*(told or {}).values()]), 0 * past]
        self.register_buffer("mean", torch.cat(mean).reshape(-1, *space) if told else None)
        forcing_scale = forcing_scale[:own]
        of_forcing = {"forcing": forcing_scale, "parameter": torch.ones_like(forcing_scale)}
        scale = of_forcing.get(inject)
        other = None if scale is None else scale.reshape(-1, *space).clone()
        self.register_buffer("output_scale", other)
        self.register_buffer("mask", None if mask is None else mask.clone())
        self.register_buffer("nearest", None if nearest is None else nearest.clone())
        self.register_buffer("fixed", None if fixed is None else fixed.to(both, copy=True))
        for name, value in (mesh or {}).items():
            self.register_buffer(name, value.clone())

    def forward(
        self, state: Float[Tensor, "b c *space"], forcing: Float[Tensor, "b f *space"] | None = None
    ) -> Float[Tensor, "b o *space"]:
        """Correction of `state`, or of `forcing`, in its units."""
        raw = state if forcing is None else torch.cat([state, forcing], dim=1)
        _check_channels(raw, self.input_scale)
        scale = self.state_scale if self.output_scale is None else self.output_scale
        seen = (raw if self.mean is None else raw - self.mean) / self.input_scale
        if self.nearest is not None and self.mask is not None:
            flat = seen.flatten(-self.mask.dim())
            seen = flat.index_select(-1, self.nearest).unflatten(-1, self.mask.shape)
        elif self.mask is not None:
            seen = torch.where(self.mask, seen, 0.0)
        for channels in (self.fixed, self.mask):
            if channels is not None:  # a sum, since torch.fx follows no expand(len(seen), ...)
                seen = torch.cat([seen, torch.zeros_like(seen[:, :1]) + channels], dim=1)
        correction: Tensor = self.body(seen) * scale
        if self.output_scale is not None and self.told:
            none = [torch.zeros_like(correction[:, :1])] * len(self.told)
            correction = torch.cat([correction, *none], dim=1)
        return correction if self.mask is None else torch.where(self.mask, correction, 0.0)


def _check_channels(seen: Tensor, scale: Tensor) -> None:
    """Require as many channels as there are scales: a single one would be repeated in silence."""
    # Who traces a module has no shape to compare
    tracing = torch.jit.is_tracing() or not isinstance(seen, Tensor)  # type: ignore[no-untyped-call, attr-defined]
    if not tracing and seen.shape[1] != len(scale):
        got = f"{seen.shape[1]} channels of state and forcing together"
        expected = f"{len(scale)}, with all that it is told and the states before"
        raise InputError("corrector", got=got, expected=expected)


def check_sizes(**sizes: int) -> None:
    """Require whole numbers >= 1 that are not absurd."""
    for name, size in sizes.items():
        check_count(name, size, _MOST)


def _conv(inputs: int, outputs: int, kernel: int, padding: Padding, dims: int) -> nn.Module:
    check_count("dims", dims, len(_CONVS))
    words = padding if isinstance(padding, list | tuple) else (padding,) * dims
    for word in words:
        check_choice("padding", word, ("periodic", "zero"))
    if len(words) != dims:
        raise InputError("padding", got=padding, expected=f"one word, or {dims}")
    convolution: Any = _CONVS[dims - 1]
    if len(set(words)) == 1:
        mode = "circular" if words[0] == "periodic" else "zeros"
        alike: nn.Module = convolution(
            inputs, outputs, kernel, padding=kernel // 2, padding_mode=mode
        )
        return alike
    around = [kernel // 2 if word == "periodic" else 0 for word in words]
    sides: Any = tuple(side for side in reversed(around) for _ in range(2))  # last axis first
    wrapped = nn.CircularPad2d(sides) if dims == 2 else nn.CircularPad3d(sides)
    zeros = tuple(kernel // 2 - side for side in around)
    return nn.Sequential(wrapped, convolution(inputs, outputs, kernel, padding=zeros))


def start_at_zero(layer: nn.Module) -> None:
    """Let a last layer answer 0, so that training starts from the uncorrected solver."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
