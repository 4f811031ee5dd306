"""Jacobians too large to keep whole: what is near a cell, and a low rank for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zopde.grid import Grid
from zopde.interface.forms import Jacobian
from zopde.interface.vjp import Variable
from zopde.validate import check_count

_MORE = 8  # columns of the sketch beyond the rank
_POWERS = 2


@final
class Compressed:
    """J^T  ~  N + A B^T, N being J^T[j, i] where the cells of i and j are near.

    Args:
        near: (varied_channel, cell, channel, neighbour), the entries of N.
        left: (inputs, rank), A.
        right: (outputs, rank), B.
        cells: (cell, neighbour), which cell each neighbour is.
        error: See `Jacobian`.
    """

    def __init__(
        self,
        near: Float[Tensor, "varied_channel cell channel neighbour"],
        left: Float[Tensor, "inputs rank"],
        right: Float[Tensor, "outputs rank"],
        cells: Int[Tensor, "cell neighbour"],
        error: float,
    ) -> None:
        self.near, self.left, self.right, self.error = near, left, right, error
        self._cells = cells

    def pull(self, vectors: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch inputs"]:
        """See `Jacobian`."""
        near, left, right = (part.to(vectors) for part in (self.near, self.left, self.right))
        fields = vectors.view(len(vectors), near.shape[2], -1)
        local = torch.einsum("bocn,icon->bic", fields[:, :, self._cells], near)
        return local.flatten(1) + (vectors @ right) @ left.T

    def push(self, vectors: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """See `Jacobian`."""
        near, left, right = (part.to(vectors) for part in (self.near, self.left, self.right))
        fields = vectors.view(len(vectors), len(near), -1)
        parts = torch.einsum("bic,icon->bocn", fields, near)
        local = parts.new_zeros(parts.shape[:3])
        local.index_add_(2, self._cells.flatten(), parts.flatten(2))
        return local.flatten(1) + (vectors @ left) @ right.T


@final
class CompressedForm:
    """The near field of a radius as it is, and the rest as a product of rank `rank`.

    The rest's factors are those of a truncated singular value decomposition, found by a
    randomised range finder with two power iterations (Halko, Martinsson and Tropp 2011,
    algorithm 4.4); the draw is the same every time. J^T is held in memory once, and only while
    it is packed.

    Args:
        grid: The solver's grid; its boundary decides what is near.
        variable: The varied input.
        radius: Cells along each axis that are near.
        rank: Of the rest, >= 1; at most what the entries allow is taken.
    """

    def __init__(self, grid: Grid, variable: Variable, radius: tuple[int, ...], rank: int) -> None:
        check_count("rank", rank)
        cells, self._inside = neighbourhoods(grid, radius)
        self._cells = cells
        varied = grid.state_shape if variable == "state" else grid.forcing_shape
        inputs, outputs = math.prod(varied), math.prod(grid.state_shape)
        rank = min(rank, inputs, outputs)
        self._shapes = (
            (varied[0], len(cells), len(grid.channels), cells.shape[1]),
            (inputs, rank),
            (outputs, rank),
        )
        self._rank = rank
        self.name = f"near{'x'.join(map(str, radius))}-rank{rank}"
        self.size = sum(map(math.prod, self._shapes)) + 1

    def pack(self, transposed: Float[Tensor, "inputs outputs"]) -> Float[Tensor, " size"]:
        """See `Form`; `transposed` is spent."""
        total = float(transposed.norm())
        near = self._cut_out(transposed)
        left, right, lost = _low_rank(transposed, self._rank)
        error = torch.tensor([lost / total if total else 0.0])
        return torch.cat([near.flatten(), left.flatten(), right.flatten(), error])

    def open(self, numbers: Float[Tensor, " size"]) -> Compressed:
        """See `Form`."""
        *parts, error = numbers.split([*map(math.prod, self._shapes), 1])
        near, left, right = (p.view(s) for p, s in zip(parts, self._shapes, strict=True))
        return Compressed(near, left, right, self._cells, float(error))

    def mean(self, jacobians: Sequence[Jacobian]) -> Compressed:
        """See `Form`; its rank is the sum of theirs."""
        all_of = [one for one in jacobians if isinstance(one, Compressed)]
        near = torch.stack([one.near for one in all_of]).mean(dim=0)
        left = torch.cat([one.left for one in all_of], dim=1) / len(all_of)
        right = torch.cat([one.right for one in all_of], dim=1)
        return Compressed(near, left, right, self._cells, max(one.error for one in all_of))

    def _cut_out(self, transposed: Tensor) -> Tensor:
        """The near entries, which are set to zero where they were."""
        inputs, cells, outputs, near = self._shapes[0]
        entries = transposed.view(inputs, cells, outputs, cells)
        places = self._cells[None, :, None].expand(inputs, cells, outputs, near)
        found = entries.gather(3, places) * self._inside[:, None]
        entries.scatter_(3, places, 0.0)
        return found


def neighbourhoods(
    grid: Grid, radius: tuple[int, ...]
) -> tuple[Int[Tensor, "cell neighbour"], Bool[Tensor, "cell neighbour"]]:
    """The cells in the box around each cell, and which of them are there.

    Args:
        grid: Its boundary decides whether the box goes round or ends.
        radius: Cells along each axis; no more than make the box the whole axis count.
    """
    cells = torch.zeros(1, 1, dtype=torch.long)
    inside = torch.ones(1, 1, dtype=torch.bool)
    for n, wanted in zip(grid.shape, radius, strict=True):
        r = min(wanted, (n - 1) // 2 if grid.boundary == "periodic" else n - 1)
        place = torch.arange(n)[:, None] + torch.arange(-r, r + 1)
        there = (place >= 0) & (place < n)
        if grid.boundary == "periodic":
            place, there = place % n, torch.ones_like(there)
        place = place.clamp(0, n - 1)
        both = cells[:, None, :, None] * n + place[None, :, None, :]
        inside = (inside[:, None, :, None] & there[None, :, None, :]).reshape(len(cells) * n, -1)
        cells = both.reshape(len(cells) * n, -1)
    return cells, inside


def _low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """(A, B, |matrix - A B^T|), the factors scaled alike."""
    draw = torch.Generator().manual_seed(0)
    width = min(rank + _MORE, *matrix.shape)
    sketch = torch.randn(matrix.shape[1], width, generator=draw, dtype=matrix.dtype)
    basis = torch.linalg.qr(matrix @ sketch).Q
    for _ in range(_POWERS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    right, sizes, turned = torch.linalg.svd(matrix.T @ basis, full_matrices=False)
    root = sizes[:rank].sqrt()
    left = basis @ turned[:rank].T * root
    lost = float(matrix.double().square().sum() - sizes[:rank].double().square().sum())
    return left, right[:, :rank] * root, math.sqrt(max(0.0, lost))
