"""How a Jacobian is kept for products: whole, or near entries and a low rank for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zopde.errors import InputError
from zopde.grid import Grid
from zopde.interface.vjp import Variable, varied_shape
from zopde.validate import check_count

Numbers = Float[Tensor, " size"]
Inputs = Float[Tensor, "batch inputs"]
Outputs = Float[Tensor, "batch outputs"]
_GIB = 2**30
_MORE = 8  # columns of the sketch beyond the rank
_POWERS = 2


@final
class DenseForm:
    """Every entry of J^T, D x D numbers.

    Args:
        inputs: Entries of the varied input.
        outputs: Entries of a state.

    Attributes:
        name: Sets it apart from other forms of the same Jacobian.
        size: How many numbers.
    """

    name = "dense"

    def __init__(self, inputs: int, outputs: int) -> None:
        self.size, self._shape = inputs * outputs, (inputs, outputs)

    def pack(self, transposed: Float[Tensor, "inputs outputs"]) -> Numbers:
        """The numbers, float32, for J^T[j, i] = d S_i / d x_j, whose memory may be reused."""
        return transposed.flatten()

    def pull(self, numbers: Numbers, vectors: Outputs) -> Inputs:
        """J^T v for every row."""
        return vectors @ numbers.view(self._shape).to(vectors).T

    def push(self, numbers: Numbers, vectors: Inputs) -> Outputs:
        """J d for every row."""
        return vectors @ numbers.view(self._shape).to(vectors)

    def error(self, numbers: Numbers) -> float:  # noqa: ARG002 - nothing is lost
        """|J kept - J measured| / |J measured|, Frobenius norms."""
        return 0.0


@final
class CompressedForm:
    """Keeps a Jacobian as its near entries and a low rank for the rest.

        J^T  ~  N + A B^T,     N being J^T[j, i] where the cells of i and j are near.

    A B^T, of rank `rank`, is the truncated singular value decomposition of the rest, found by a
    randomised range finder with two power iterations (Halko, Martinsson and Tropp 2011,
    algorithm 4.4); the draw is the same every time. J^T is held in memory once, and only while
    it is packed. The methods are those of `DenseForm`.

    Args:
        grid: The solver's grid; its boundary decides what is near.
        variable: The varied input.
        radius: Cells along each axis that are near.
        rank: Of the rest, >= 1; at most what the entries allow is taken.
    """

    def __init__(self, grid: Grid, variable: Variable, radius: tuple[int, ...], rank: int) -> None:
        check_count("rank", rank)
        self._cells, self._inside = neighbourhoods(grid, radius)
        varied = varied_shape(grid, variable)
        inputs, outputs = math.prod(varied), math.prod(grid.state_shape)
        self._rank = rank = min(rank, inputs, outputs)
        cells, neighbours = self._cells.shape
        near = (varied[0], cells, len(grid.channels), neighbours)
        self._shapes = (near, (inputs, rank), (outputs, rank), (1,))
        self.name = f"near{'x'.join(map(str, radius))}-rank{rank}"
        self.size = sum(map(math.prod, self._shapes))

    def pack(self, transposed: Float[Tensor, "inputs outputs"]) -> Numbers:
        """N, A, B and the error in a row; `transposed` is spent."""
        total = float(transposed.norm())
        near = self._cut_out(transposed)
        left, right, lost = _low_rank(transposed, self._rank)
        error = torch.tensor([lost / total if total else 0.0])
        return torch.cat([near.flatten(), left.flatten(), right.flatten(), error])

    def pull(self, numbers: Numbers, vectors: Outputs) -> Inputs:
        """J^T v for every row."""
        near, left, right, _ = (part.to(vectors) for part in self._parts(numbers))
        fields = vectors.view(len(vectors), near.shape[2], -1)
        local = torch.einsum("bocn,icon->bic", fields[:, :, self._cells], near)
        return local.flatten(1) + (vectors @ right) @ left.T

    def push(self, numbers: Numbers, vectors: Inputs) -> Outputs:
        """J d for every row."""
        near, left, right, _ = (part.to(vectors) for part in self._parts(numbers))
        fields = vectors.view(len(vectors), len(near), -1)
        products = torch.einsum("bic,icon->bocn", fields, near)
        local = products.new_zeros(products.shape[:3])
        local.index_add_(2, self._cells.flatten(), products.flatten(2))
        return local.flatten(1) + (vectors @ left) @ right.T

    def error(self, numbers: Numbers) -> float:
        """|J kept - J measured| / |J measured|, Frobenius norms; the last number."""
        return float(numbers[-1])

    def _parts(self, numbers: Tensor) -> list[Tensor]:
        parts = numbers.split([math.prod(shape) for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _cut_out(self, transposed: Tensor) -> Tensor:
        """The near entries, which are set to zero where they were."""
        inputs, cells, outputs, near = self._shapes[0]
        entries = transposed.view(inputs, cells, outputs, cells)
        index = self._cells[None, :, None].expand(inputs, cells, outputs, near)
        near_field = entries.gather(3, index) * self._inside[:, None]
        entries.scatter_(3, index, 0.0)
        return near_field


Form = DenseForm | CompressedForm
"""How a Jacobian is kept: as numbers in a row, from which products are made."""


def neighbourhoods(
    grid: Grid, radius: tuple[int, ...]
) -> tuple[Int[Tensor, "cell neighbour"], Bool[Tensor, "cell neighbour"]]:
    """The cells in the box around each cell, and which of them are there.

    The grid's boundary decides whether the box goes round or ends. No more cells of the radius
    than make the box the whole axis count.
    """
    cells = torch.zeros(1, 1, dtype=torch.long)
    inside = torch.ones(1, 1, dtype=torch.bool)
    for n, wanted, periodic in zip(grid.shape, radius, grid.periodic, strict=True):
        r = min(wanted, (n - 1) // 2 if periodic else n - 1)
        along = torch.arange(n)[:, None] + torch.arange(-r, r + 1)
        along = along % n if periodic else along
        exists = (along >= 0) & (along < n)
        both = cells[:, None, :, None] * n + along.clamp(0, n - 1)[None, :, None, :]
        inside = (inside[:, None, :, None] & exists[None, :, None, :]).reshape(len(cells) * n, -1)
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


def form_for(
    grid: Grid,
    variable: Variable,
    capacity: int,
    limit_gib: float = 4.0,
    radius: Sequence[int] = (),
    rank: int = 0,
) -> Form:
    """Whole Jacobians where so many fit into so many GiB, compressed ones where only they do.

    Args:
        grid: The solver's grid.
        variable: Of which input, "state" or "forcing".
        capacity: How many.
        limit_gib: GiB at most.
        radius: Near field of the compressed form; empty refuses to compress.
        rank: Of the compressed form's rest.

    Raises:
        InputError: If neither fits.
    """
    rows, columns = math.prod(varied_shape(grid, variable)), math.prod(grid.state_shape)
    dense = DenseForm(rows, columns)
    sizes, needed = "", 4 * dense.size * capacity / _GIB
    if needed <= limit_gib:
        return dense
    if radius and rank:
        compressed = CompressedForm(grid, variable, tuple(radius), rank)
        less = 4 * compressed.size * capacity / _GIB
        if less <= limit_gib:
            return compressed
        sizes = f", {less:.3g} GiB compressed"
    got = f"{capacity} x {rows:,} x {columns:,} entries, {needed:.3g} GiB{sizes}"
    remedy = "take fewer snapshots or a coarser grid, raise the limit, or use coloured"
    raise InputError("bank", got=got, expected=f"at most {limit_gib:.3g} GiB", remedy=remedy)
