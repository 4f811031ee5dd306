"""How a Jacobian is kept for products: whole, or near entries and a low rank for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zopde.errors import InputError
from zopde.grid import Grid
from zopde.interface.vjp import Variable
from zopde.validate import check_count

_GIB = 2**30
_MORE = 8  # columns of the sketch beyond the rank
_POWERS = 2


class Jacobian(Protocol):
    """J, known well enough for products.

    Attributes:
        error: |J kept - J measured| / |J measured|, Frobenius norms.
    """

    error: float

    def pull(self, vectors: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch inputs"]:
        """J^T v for every row."""
        ...

    def push(self, vectors: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """J d for every row."""
        ...


class Form(Protocol):
    """A layout of a Jacobian as numbers in a row, float32.

    Attributes:
        name: Sets it apart from other forms of the same Jacobian.
        size: How many numbers.
    """

    name: str
    size: int

    def pack(self, transposed: Float[Tensor, "inputs outputs"]) -> Float[Tensor, " size"]:
        """The numbers for J^T[j, i] = d S_i / d x_j, whose memory may be reused."""
        ...

    def open(self, numbers: Float[Tensor, " size"]) -> Jacobian:
        """The Jacobian of these numbers, which stay where they are."""
        ...


@final
class Dense:
    """Every entry of J^T.

    Args:
        transposed: (inputs, outputs).
    """

    error = 0.0

    def __init__(self, transposed: Float[Tensor, "inputs outputs"]) -> None:
        self.transposed = transposed

    def pull(self, vectors: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch inputs"]:
        """See `Jacobian`."""
        return vectors @ self.transposed.to(vectors).T

    def push(self, vectors: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """See `Jacobian`."""
        return vectors @ self.transposed.to(vectors)


@final
class DenseForm:
    """D x D numbers.

    Args:
        inputs: Entries of the varied input.
        outputs: Entries of a state.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.name, self.size, self._shape = "dense", inputs * outputs, (inputs, outputs)

    def pack(self, transposed: Float[Tensor, "inputs outputs"]) -> Float[Tensor, " size"]:
        """See `Form`."""
        return transposed.flatten()

    def open(self, numbers: Float[Tensor, " size"]) -> Dense:
        """See `Form`."""
        return Dense(numbers.view(self._shape))


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
        products = torch.einsum("bic,icon->bocn", fields, near)
        local = products.new_zeros(products.shape[:3])
        local.index_add_(2, self._cells.flatten(), products.flatten(2))
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
        self._cells, self._inside = neighbourhoods(grid, radius)
        varied = grid.state_shape if variable == "state" else grid.forcing_shape
        inputs, outputs = math.prod(varied), math.prod(grid.state_shape)
        self._rank = rank = min(rank, inputs, outputs)
        cells, neighbours = self._cells.shape
        near = (varied[0], cells, len(grid.channels), neighbours)
        self._shapes = (near, (inputs, rank), (outputs, rank))
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

    def _cut_out(self, transposed: Tensor) -> Tensor:
        """The near entries, which are set to zero where they were."""
        inputs, cells, outputs, near = self._shapes[0]
        entries = transposed.view(inputs, cells, outputs, cells)
        places = self._cells[None, :, None].expand(inputs, cells, outputs, near)
        near_field = entries.gather(3, places) * self._inside[:, None]
        entries.scatter_(3, places, 0.0)
        return near_field


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
    varied = grid.state_shape if variable == "state" else grid.forcing_shape
    rows, columns = math.prod(varied), math.prod(grid.state_shape)
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
    raise InputError(
        "bank",
        got=f"{capacity} x {rows:,} x {columns:,} entries, {needed:.3g} GiB{sizes}",
        expected=f"at most {limit_gib:.3g} GiB",
        remedy="take fewer snapshots or a coarser grid, raise the limit, or use coloured",
    )
