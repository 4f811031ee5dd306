"""Heat in a swirl, by linear finite elements on an unstructured mesh of triangles."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import Delaunay
from torch import Tensor

from zopde.contracts import Forcing, Scenario, State
from zopde.errors import InputError
from zopde.grid import check_forcing, check_state
from zopde.mesh import Mesh
from zopde.validate import check_not_negative

_SIDE = 9  # points along a side of the coarsest mesh
_MOVED = 0.3  # of their distance: how far an inner point is from that of a lattice
_MOST = 100_000  # points of a mesh
_WAVES = 4  # along each axis


def coarsest() -> tuple[np.ndarray, np.ndarray]:
    """81 points of the unit square, most of them moved from a lattice, and their triangles."""
    ends = np.linspace(0, 1, _SIDE)
    points = np.stack(np.meshgrid(ends, ends), axis=-1).reshape(-1, 2)
    inside = ((points > 0) & (points < 1)).all(axis=1, keepdims=True)
    moved = np.random.default_rng(1).uniform(-_MOVED, _MOVED, points.shape) / (_SIDE - 1)
    points = points + inside * moved
    return points, Delaunay(points).simplices.astype(np.int64)


def refined(points: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Four triangles in place of each one; the points of before come first."""
    ends = np.sort(cells[:, [[0, 1], [1, 2], [2, 0]]], axis=2).reshape(-1, 2)
    pairs, numbers = np.unique(ends, axis=0, return_inverse=True)
    a, b, c = cells.T
    ab, bc, ca = len(points) + numbers.reshape(-1, 3).T
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    cells = np.concatenate([np.stack(part, axis=1) for part in parts])
    return np.concatenate([points, points[pairs].mean(axis=1)]), cells


def operators(points: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, Any, Any]:
    """Lumped mass (point,), and the matrices of -Laplace and of the swirl, for linear elements.

    In a triangle the velocity is that of the interpolated stream function. So it has no
    divergence, and carries nothing through the boundary.
    """
    corners = points[cells]
    opposite = np.roll(corners, 1, axis=1) - np.roll(corners, -1, axis=1)
    left = np.stack([-opposite[..., 1], opposite[..., 0]], axis=-1)  # its normal, inwards
    area = -(opposite[:, 0] * left[:, 1]).sum(axis=1) / 2
    slopes = left / (2 * area[:, None, None])  # of the three shape functions
    stiff = area[:, None, None] * slopes @ slopes.transpose(0, 2, 1)
    stream = np.sin(np.pi * points).prod(axis=1)[cells] / np.pi
    rise = np.einsum("tk,tkd->td", stream, slopes)
    velocity = np.stack([rise[:, 1], -rise[:, 0]], axis=1)
    along = np.einsum("t,td,tkd->tk", area / 3, velocity, slopes)
    carry = np.repeat(along[:, None], 3, axis=1)
    rows, columns = np.repeat(cells, 3, axis=1).ravel(), np.tile(cells, 3).ravel()
    size = len(points), len(points)
    stiff, carry = (sparse.csc_matrix((m.ravel(), (rows, columns)), size) for m in (stiff, carry))
    return np.bincount(cells.ravel(), np.repeat(area / 3, 3), len(points)), stiff, carry


class _Solve(torch.autograd.Function):
    """x = A^-1 b along the last axis, from the factors of A; backwards by those of A^T."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, factors: Any) -> Tensor:  # noqa: ANN401
        ctx.factors = factors
        return _solved(right, factors, "N")

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return _solved(cotangent, ctx.factors, "T"), None


def _solved(right: Tensor, factors: Any, kind: str) -> Tensor:  # noqa: ANN401
    columns = right.detach().cpu().reshape(-1, right.shape[-1]).T.numpy()
    return torch.from_numpy(factors.solve(columns, kind).T.copy()).view_as(right).to(right)


class _HeatMesh:
    """One step, with or without a gradient."""

    def __init__(
        self,
        shape: tuple[int, ...] = (289,),
        diffusivity: float = 2e-3,
        speed: float = 1.0,
        rate: float = 2.0,
        dt: float = 0.02,
    ) -> None:
        self._options = {"diffusivity": diffusivity, "speed": speed, "rate": rate, "dt": dt}
        for name, value in self._options.items():
            check_not_negative(name, value)
        points, cells = coarsest()
        while len(shape) == 1 and len(points) < shape[0] <= _MOST:
            points, cells = refined(points, cells)
        if tuple(shape) != (len(points),):
            expected = "(81,), (289,), (1089,), (4225,), ... points"
            raise InputError("shape", got=tuple(shape), expected=expected)
        self.grid = Mesh(points, float(dt), ("temperature",), cells=cells)
        self._mass, stiff, carry = operators(points, cells)
        moves = float(dt) * (diffusivity * stiff + speed * carry)
        self._matrix = (sparse.diags(self._mass) + moves).tocsc()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_factors"}

    @cached_property
    def _factors(self) -> Any:  # noqa: ANN401 - of a library without types
        return splu(self._matrix)

    def _checked_step(self, state: State, forcing: Forcing | None) -> State:
        check_state(self.grid, state)
        check_forcing(self.grid, forcing, len(state))
        before, mass = state.double(), torch.from_numpy(self._mass).to(state.device)
        source = self.grid.dt * self._options["rate"] * (before - before**3)
        moved = mass * (before + source)
        stepped: Tensor = _Solve.apply(moved, self._factors)  # type: ignore[no-untyped-call]
        return stepped.to(state.dtype)

    @property
    def options(self) -> dict[str, Any]:
        """The physics, without the resolution."""
        return self._options


@final
class HeatMesh(_HeatMesh):
    """Heat that a swirl carries through a square, by finite elements on triangles, a black box.

        u_t + v grad u = D laplace u + r (u - u^3)   on the unit square, nothing leaves it

    v turns about the middle, with the stream function s sin(pi x) sin(pi y) / pi. The source
    drives u to 1 or to -1, and the swirl winds the fronts between them up until they are thinner
    than the triangles of a coarse mesh.

    Linear elements with a lumped mass; in time an implicit Euler step of swirl and diffusion, by
    sparse factors of one constant matrix, and an explicit one of the source. The meshes are nested:
    one of 81 points, moved at random from a lattice, and those that come of it when each triangle
    is cut into four, of 289, 1089, 4225, ... points. A fine state is brought to a coarse mesh by
    its values at the coarse points. It computes in float64 and answers in the precision of the
    state.

    Args:
        shape: (points,), those of one of the meshes.
        diffusivity: D, in the square's side squared per unit of time.
        speed: s, the largest speed of the swirl.
        rate: r, of the source, per unit of time.
        dt: Time of one step.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 1, point) by dt; no gradient. See `zopde.Solver.step`."""
        with torch.no_grad():
            return self._checked_step(state, forcing)

    def differentiable_twin(self) -> DifferentiableHeatMesh:
        """The same step with its autograd graph, for the SOL baseline alone."""
        return DifferentiableHeatMesh(self.grid.shape, **self.options)

    def at(self, shape: tuple[int, ...]) -> HeatMesh:
        """The same physics on another one of the meshes."""
        return HeatMesh(shape, **self.options)

    def downsample(self, fine: State) -> State:
        """(batch, 1, fine point) -> (batch, 1, point): the values at the coarse points."""
        return fine[..., : self.grid.shape[0]]

    def scenario(self, simulations: int, generator: torch.Generator) -> Scenario:
        """Random sums of waves that are level at the walls.

            u = sum_jk a_jk cos(j pi x) cos(k pi y),   j, k = 0 .. 3

        with a in [-1/2, 1/2).
        """
        draw = torch.rand(simulations, _WAVES, _WAVES, generator=generator, dtype=torch.float64)
        turns = math.pi * torch.arange(_WAVES) * self.grid.positions.T[..., None]
        x, y = turns.cos()
        initial = torch.einsum("sjk,pj,pk->sp", draw - 0.5, x, y)
        return Scenario(initial[:, None].float())


@final
class DifferentiableHeatMesh(_HeatMesh):
    """`HeatMesh` with its gradient. A scientist's solver has none: baseline only."""

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 1, point) by dt, keeping the autograd graph."""
        return self._checked_step(state, forcing)
