"""The pressure of an open stream round an obstacle, by a direct solve prepared once."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@final
class Pressure:
    """p with laplace(p) = divergence, and no normal gradient on the obstacle, exactly.

    p = 0 in the cells beyond the outflow (large y) and both sides; dp/dy = 0 at the inflow.

    Without the obstacle the discrete Laplacian is a sum of one matrix per direction, so with
    their eigenvectors Q_y, Q_x and eigenvalues a, b

        p_0 = Q_y [ (Q_y^T d Q_x)_ij / (a_i + b_j) ] Q_x^T

    takes four small matrix products. The obstacle closes m faces E; the forces on them that
    stop the flow through them are the solution of an m x m system (the capacitance matrix,
    Buzbee, Dorr, George and Golub 1971), inverted once:

        p = p_0 + A^-1 D E (I - E^T G A^-1 D E)^+ E^T G p_0

    with A = D G, divergence of gradient. It keeps m * cells numbers.

    Args:
        solid: (y, x), True where a cell belongs to the obstacle; not along the border.
        spacing: (dy, dx).
    """

    def __init__(self, solid: Bool[Tensor, "y x"], spacing: tuple[float, ...]) -> None:
        shape = tuple(solid.shape)
        a, self._q_y = _eigen(shape[0], spacing[0], closed_start=True)
        b, self._q_x = _eigen(shape[1], spacing[1], closed_start=False)
        self._inverse = 1 / (a[:, None] + b)
        below, above, width = _closed_faces(solid, spacing)
        self._below, self._above, self._width = below, above, width
        faces = torch.arange(len(width))
        forced = torch.zeros(len(width), shape[0] * shape[1], dtype=torch.float64)
        forced[faces, below] += 1 / width
        forced[faces, above] -= 1 / width
        answer = self._open(forced.view(-1, *shape)).flatten(1)
        capacitance = torch.eye(len(width), dtype=torch.float64) - self._jump(answer).T
        # An obstacle's own pressure pushes nothing: one direction per obstacle is void.
        self._response = torch.linalg.pinv(capacitance, hermitian=True, rtol=1e-10).T @ answer

    def to(self, like: Tensor) -> Pressure:
        """The same in the precision and on the device of `like`."""
        other = object.__new__(Pressure)
        for name, value in vars(self).items():
            whole = value.dtype == torch.int64
            setattr(other, name, value.to(like.device, None if whole else like.dtype))
        return other

    def solve(self, divergence: Float[Tensor, "batch y x"]) -> Float[Tensor, "batch y x"]:
        """p; see the class."""
        p = self._open(divergence)
        correction = self._jump(p.flatten(1)) @ self._response
        return torch.add(p, correction.view_as(p))

    def _open(self, divergence: Tensor) -> Tensor:
        modes = self._q_y.T @ (divergence @ self._q_x) * self._inverse
        return torch.matmul(self._q_y, modes @ self._q_x.T)

    def _jump(self, p: Tensor) -> Tensor:
        """(batch, m), the gradient of p at the closed faces."""
        return torch.div(p[:, self._above] - p[:, self._below], self._width)


def _eigen(cells: int, width: float, closed_start: bool) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the second difference, in float64."""
    matrix = torch.diag(torch.full((cells,), -2.0, dtype=torch.float64))
    beside = torch.ones(cells - 1, dtype=torch.float64)
    matrix += torch.diag(beside, 1) + torch.diag(beside, -1)
    if closed_start:
        matrix[0, 0] = -1
    values, vectors = torch.linalg.eigh(matrix / width**2)
    return values, vectors


def _closed_faces(solid: Tensor, spacing: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Cells before and after each face between solid and fluid, and their distance."""
    number = torch.arange(solid.numel()).view_as(solid)
    before, after, width = [], [], []
    for axis, dx in enumerate(spacing):
        last = solid.shape[axis] - 1
        changes = solid.narrow(axis, 0, last) != solid.narrow(axis, 1, last)
        before.append(number.narrow(axis, 0, last)[changes])
        after.append(number.narrow(axis, 1, last)[changes])
        width.append(torch.full((int(changes.sum()),), dx, dtype=torch.float64))
    return torch.cat(before), torch.cat(after), torch.cat(width)
