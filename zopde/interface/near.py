"""What lies near: distances, sums and colours of cells, on a grid."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from zopde.contracts import Domain
from zopde.interface.colours import lattice_colours
from zopde.interface.hops import Hops
from zopde.mesh import Mesh

Radius = tuple[int, ...]


class Lattice:
    """Boxes of cells; a radius is cells along each axis."""

    def __init__(self, grid: Domain) -> None:
        self._shape, self._periodic = grid.shape, grid.periodic

    def colours(self, radius: Radius, fewest: bool = True) -> Tensor:
        """Colours 0, 1, ...: what lies within the radius of two cells of one never overlaps."""
        return lattice_colours(self._shape, radius, self._periodic, fewest)

    def least_colours(self, radius: Radius) -> int:
        """How many colours that takes at least."""
        return prod(min(2 * r + 1, n) for r, n in zip(radius, self._shape, strict=True))

    def sums(self, values: Tensor, radius: Radius) -> Tensor:
        """Sum over what lies within the radius of each cell."""
        axes = zip(self._shape, radius, self._periodic, strict=True)
        for axis, (n, r, periodic) in enumerate(axes, start=1):
            if not periodic:
                shape = *values.shape[:axis], r, *values.shape[axis + 1 :]
                before = after = values.new_zeros(shape)
            elif 2 * r + 1 < n:
                before, after = values.narrow(axis, n - r, r), values.narrow(axis, 0, r)
            else:
                values = values.sum(dim=axis, keepdim=True).expand_as(values)
                continue
            wide = torch.cat([before, values, after], dim=axis)
            values = wide.unfold(axis, 2 * r + 1, 1).sum(dim=-1)
        return values

    def by_distance(self, squares: Tensor, cells: Tensor) -> Tensor:
        """Sum what is equally far from the cell of each probe; the distance is the place."""
        energy, stride = squares, squares[0].numel()
        for axis, (n, periodic) in enumerate(zip(self._shape, self._periodic, strict=True), 1):
            stride //= n
            probed = (cells // stride) % n
            distance = (torch.arange(n, device=cells.device) - probed[:, None]).abs()
            if periodic:
                distance = torch.minimum(distance, n - distance)
            along = energy.movedim(axis, 1)
            index = distance.view(*distance.shape, *[1] * (along.dim() - 2)).expand(along.shape)
            energy = torch.zeros_like(along).scatter_add(1, index, along).movedim(1, axis)
        return energy

    def beyond(self, squares: Tensor, comb: Tensor, tolerance: float) -> Tensor:
        """(axis, probe): how far from the nearest of a comb's cells all lies but a share."""
        reaches = []
        for axis, (n, periodic) in enumerate(zip(self._shape, self._periodic, strict=True)):
            along = squares.movedim(axis + 1, 1).reshape(len(comb), n, -1).sum(dim=2)
            teeth = comb.movedim(axis + 1, 1).reshape(len(comb), n, -1).sum(dim=2)
            away = (torch.arange(n)[:, None] - torch.arange(n)).abs().to(along)
            if periodic:
                away = torch.minimum(away, n - away)
            nearest = torch.where(teeth[:, None] > 0, away, n).amin(dim=2)
            tolerated = tolerance * along.sum(dim=1)
            left = [(along * (nearest > far)).sum(dim=1) > tolerated for far in range(n)]
            reaches.append(torch.stack(left).sum(dim=0))
        return torch.stack(reaches)


Near = Lattice | Hops
"""What the coloured way knows of a domain: both have the same methods."""


def near_of(domain: Domain) -> Near:
    """Neighbours of neighbours on a mesh, boxes on a grid."""
    return Hops(domain) if isinstance(domain, Mesh) else Lattice(domain)
