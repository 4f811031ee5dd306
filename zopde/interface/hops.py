"""What lies near on a mesh: distances are counted in neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from zopde.mesh import Mesh

_MOST = 20_000_000  # pairs of points that are near: beyond, a step counts as not local


class Hops:
    """Points that are at most so many neighbours away; a radius is (neighbours,).

    Two points may share a colour where they are more than twice the radius apart. Point
    by point, from one corner of the mesh to the other, each takes the first colour that is free.
    """

    def __init__(self, mesh: Mesh) -> None:
        ends, self._points = mesh.edges.T.numpy(), mesh.shape[0]
        ones = np.ones(ends.shape[1], dtype=np.float32)
        size = self._points, self._points
        self._order = mesh.places.sum(dim=0).argsort(stable=True).tolist()
        self._links = sparse.csr_matrix((ones, (ends[0], ends[1])), size)
        self._balls: dict[int, Any] = {}

    def _ball(self, hops: int) -> Any:  # noqa: ANN401 - a sparse matrix, or None for too many
        """1 for every two points that are at most so many neighbours apart; looked for once."""
        if hops not in self._balls:
            self._balls[hops] = self._within(hops)
        return self._balls[hops]

    def _within(self, hops: int) -> Any:  # noqa: ANN401
        step = self._links + sparse.identity(self._points, dtype=np.float32, format="csr")
        near = sparse.identity(self._points, dtype=np.float32, format="csr")
        for _ in range(min(hops, self._points)):
            before, near = near.nnz, near @ step
            near.data[:] = 1
            if near.nnz > _MOST:
                return None
            if near.nnz == before:
                break
        return near

    def colours(self, radius: tuple[int, ...], fewest: bool = True) -> Tensor:
        """Colours 0, 1, ...; each point has its own where they would save nothing."""
        del fewest  # one way alone is known
        near = None
        if 2 * self.least_colours(radius) <= self._points:
            near = self._ball(2 * radius[0])
        if near is None:
            return torch.arange(self._points)
        colours = np.full(self._points, self._points)
        for point in self._order:
            taken = np.zeros(self._points + 1, dtype=bool)
            taken[colours[near.indices[near.indptr[point] : near.indptr[point + 1]]]] = True
            colours[point] = taken.argmin()
        return torch.from_numpy(colours)

    def least_colours(self, radius: tuple[int, ...]) -> int:
        """The most points that lie within the radius of one."""
        near = self._ball(radius[0])
        return self._points if near is None else int(np.diff(near.indptr).max())

    def sums(self, values: Tensor, radius: tuple[int, ...]) -> Tensor:
        """Sum over what lies within the radius of each point."""
        near = self._ball(radius[0])
        if near is None:
            return values.sum(dim=1, keepdim=True).expand_as(values)
        rows, columns = (torch.from_numpy(i.astype(np.int64)) for i in near.tocoo().coords)
        ones = torch.ones(len(rows), dtype=values.dtype)
        ball = torch.sparse_coo_tensor(
            torch.stack([rows, columns]), ones, near.shape, check_invariants=True
        )
        summed: Tensor = torch.sparse.mm(ball.to(values.device), values.T)
        return summed.T

    def by_distance(self, squares: Tensor, cells: Tensor) -> Tensor:
        """Sum what is equally far from the point of each probe; what no way leads to is last."""
        away = dijkstra(self._links, unweighted=True, indices=cells.cpu().numpy())
        distance = self._whole(away).to(squares.device)
        energy = squares.new_zeros(len(squares), self._points + 1)
        return energy.scatter_add(1, distance, squares)

    def beyond(self, squares: Tensor, comb: Tensor, tolerance: float) -> Tensor:
        """How far from the nearest of a comb's points all lies but a share."""
        found = []
        for teeth, square in zip(comb.cpu().numpy(), squares.cpu(), strict=True):
            near = dijkstra(self._links, unweighted=True, indices=teeth.nonzero()[0], min_only=True)
            energy = torch.bincount(self._whole(near), square)
            left = energy.sum() - energy.cumsum(dim=0) > tolerance * energy.sum()
            found.append(left.sum())
        return torch.stack(found)[None]

    def _whole(self, away: np.ndarray) -> Tensor:
        return torch.from_numpy(np.where(np.isinf(away), self._points, away).astype(np.int64))
