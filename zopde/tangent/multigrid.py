"""Convolutions on coarser and coarser grids, multiplied by gates that a second network makes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.contracts import Domain
from zopde.validate import check_count

_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
_RAISE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
PLACES = 4  # learned maps of position on every level
_COARSENED = 4  # cells that an axis must have to be coarsened
Gates = list[tuple[Tensor, Tensor]]


class Multigrid(nn.Module):
    """Maps fields linearly, by convolutions without bias; *gates* made of other fields steer it.

    On each level the result of each convolution is multiplied, cell by cell, by 1 plus gates. A
    second, small network with GELU makes the gates of what is seen. Axes are halved on each level
    until they have fewer than four cells, so that a change anywhere can act everywhere, as a
    pressure solve does. A new one maps everything to 0.

    Args:
        grid: Of 1 to 3 axes; its boundary decides the padding, axis by axis.
        seen: Channels that the gates are made of.
        moved: Channels of the fields that are mapped.
        outputs: Channels of what they are mapped to.
        width: Channels of every level.
        places: Learned maps of position on each level; 0 for a map that is the same everywhere.
    """

    fluid: Tensor | None

    def __init__(
        self, grid: Domain, seen: int, moved: int, outputs: int, width: int, places: int
    ) -> None:
        super().__init__()
        check_count("width", width)
        axes = len(grid.shape)
        space = [1] * axes
        self._periodic = grid.periodic
        self.register_buffer("fluid", grid.fluid, persistent=False)
        shapes = [grid.shape]
        while max(shapes[-1]) >= _COARSENED:
            shapes.append(
                tuple(-(-n // s) for n, s in zip(shapes[-1], _strides(shapes[-1]), strict=True))
            )
        self.shapes = shapes

        def kernel(outputs: int, inputs: int, size: int | tuple[int, ...] = 3) -> nn.Parameter:
            sizes = (size,) * axes if isinstance(size, int) else size
            weight = torch.empty(outputs, inputs, *sizes)
            return nn.Parameter(nn.init.kaiming_normal_(weight, nonlinearity="linear"))

        def kernels(inputs: int, fewer: int = 0) -> nn.ParameterList:
            return nn.ParameterList(kernel(width, inputs) for _ in shapes[fewer:])

        halves = [_strides(shape) for shape in shapes[:-1]]
        self.enter = kernel(width, moved)
        self.down = nn.ParameterList(kernel(width, width, half) for half in halves)
        self.along = kernels(width, 1)
        self.up = nn.ParameterList(kernel(width, width, half) for half in halves)
        self.back = nn.ParameterList(kernel(width, 2 * width) for _ in halves)
        self.leave = nn.Parameter(torch.zeros(outputs, width, *[3] * axes))
        # The gates
        self.places = nn.ParameterList(torch.zeros(places, *shape) for shape in shapes)
        self.look = nn.ParameterList(
            kernel(width, (width if n else seen) + places) for n in range(len(shapes))
        )
        self.shift = nn.ParameterList(torch.zeros(width) for _ in shapes)
        self.drop = nn.ParameterList(kernel(width, width, half) for half in halves)
        self.open = nn.ParameterList(torch.zeros(2 * width, width, *space) for _ in shapes)
        self._conv, self._raise = _CONVOLVE[axes - 1], _RAISE[axes - 1]

    def gates_of(self, seen: Float[Tensor, "batch seen *space"]) -> Gates:
        """What the convolutions are multiplied by at every state: (batch, width, *space) each."""
        made: Gates = []
        for n, shape in enumerate(self.shapes):
            if n:
                seen = self._coarser(seen, self.drop[n - 1], self.shapes[n - 1])
            maps = self.places[n].expand(len(seen), *self.places[n].shape)
            kernel = self.look[n]
            seen = self._same(torch.cat([seen, maps], dim=1), kernel)
            seen = F.gelu(seen + self.shift[n].view(-1, *[1] * len(shape)))
            first, second = self._conv(seen, self.open[n]).chunk(2, dim=1)
            made.append((1 + first, 1 + second))
        return made

    def push(
        self, gates: Gates, moved: Float[Tensor, "batch directions varied *space"]
    ) -> Float[Tensor, "batch directions channel *space"]:
        """The prediction for several perturbations of every state, all in standard deviations."""
        batch, many = moved.shape[:2]

        def gated(x: Tensor, gate: Tensor) -> Tensor:
            product: Tensor = x.unflatten(0, (batch, many)) * gate[:, None]
            return product.flatten(0, 1)

        flat = moved.flatten(0, 1)
        x = gated(self._same(flat, self.enter), gates[0][0])
        skips = [x]
        for n, shape in enumerate(self.shapes[:-1]):
            x = self._coarser(x, self.down[n], shape)
            x = gated(self._same(x, self.along[n]), gates[n + 1][0])
            skips.append(x)
        for n in reversed(range(len(self.shapes) - 1)):
            shape = self.shapes[n]
            fine = self._raise(x, self.up[n], stride=_strides(shape))
            for axis, cells in enumerate(shape, start=2):
                fine = fine.narrow(axis, 0, cells)
            x = self._same(torch.cat([fine, skips[n]], dim=1), self.back[n])
            x = gated(x, gates[n][1])
        out: Tensor = self._same(x, self.leave).unflatten(0, (batch, many))
        return out

    def _same(self, x: Tensor, kernel: Tensor) -> Tensor:
        """A convolution of width 3 that keeps the shape."""
        if not any(self._periodic):
            return self._conv(x, kernel, padding=1)
        around = [int(periodic) for periodic in reversed(self._periodic) for _ in range(2)]
        x = F.pad(x, around, mode="circular")
        return self._conv(x, kernel, padding=tuple(int(not p) for p in self._periodic))

    def _coarser(self, x: Tensor, kernel: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A convolution over pairs of cells; an odd axis gets one cell more."""
        strides = _strides(shape)
        for axis, (cells, stride) in enumerate(zip(shape, strides, strict=True)):
            if cells % stride:
                first = x.narrow(axis + 2, 0, 1)
                x = torch.cat([x, first if self._periodic[axis] else first * 0], dim=axis + 2)
        return self._conv(x, kernel, stride=strides)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(2 if cells >= _COARSENED else 1 for cells in shape)
