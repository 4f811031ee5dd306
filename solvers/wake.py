"""Unsteady wake of a cylinder in 2-D, incompressible, on a staggered grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zopde.contracts import Forcing, Scenario, State
from zopde.errors import InputError
from zopde.grid import Grid, check_forcing, check_state
from zopde.solvers.mac import (
    Faces,
    advect,
    divergence,
    downsample_faces,
    laplacian,
    minus_gradient,
    to_faces,
    to_state,
    vorticity,
    with_surroundings,
)
from zopde.solvers.pressure import Pressure
from zopde.validate import check_positive

TRAIN_REYNOLDS = tuple(97.66 * 2**k for k in range(6))
TEST_REYNOLDS = tuple(146.5 * 2**k for k in range(5))
_EXTENT = (200.0, 100.0)
_CENTRE = (50.0, 50.0)
_RADIUS = 10.0
_INFLOW = 1.0
# Where the initial poke is, and how wide: in the near wake, where shedding starts.
_POKE = (75.0, 50.0)
_POKE_WIDTH = 6.0
# Cells side by side in one pass on a CPU: their fields stay in the cache.
_CHUNK_CELLS = 2**17


class _Wake:
    """One step, with or without a gradient, and what it prepares once."""

    def __init__(
        self,
        shape: tuple[int, ...] = (64, 32),
        dt: float = 1.0,
        reynolds: Sequence[float] = TRAIN_REYNOLDS + TEST_REYNOLDS,
    ) -> None:
        if not reynolds:
            raise InputError("reynolds", got="none", expected="at least one Reynolds number")
        for value in reynolds:
            check_positive("reynolds", value)
        self._reynolds = tuple(float(value) for value in reynolds)
        self.grid = Grid(
            shape=tuple(shape),
            extent=_EXTENT,
            dt=float(dt),
            channels=("velocity_y", "velocity_x"),
            forcing_channels=("reynolds",),
            boundary="open",
        )
        self._substeps()  # too many must be known now
        solid = _cylinder(self.grid)
        if not solid.any():
            raise InputError(
                "shape", got=tuple(shape), expected="cells small enough to hold the cylinder"
            )
        self._open = _open_faces(solid)
        self._pressure = Pressure(solid, self.grid.spacing)
        self._prepared: dict[tuple[Any, ...], tuple[Faces, Pressure]] = {}

    def _settings(self) -> dict[str, Any]:
        return {"shape": self.grid.shape, "dt": self.grid.dt, "reynolds": list(self._reynolds)}

    def _checked_step(self, state: State, forcing: Forcing | None) -> State:
        check_state(self.grid, state)
        check_forcing(self.grid, forcing, len(state))
        assert forcing is not None
        lowest = float(forcing.detach().amin())
        if not lowest >= 0.9 * min(self._reynolds):  # catches NaN, too
            raise InputError(
                "forcing",
                got=f"Reynolds number {lowest:g}",
                expected=f"at least {0.9 * min(self._reynolds):g}, where the step is stable",
                remedy="add a lower one to the solver's `reynolds`",
            )
        on_cpu = state.device.type == "cpu"
        chunk = max(1, _CHUNK_CELLS // math.prod(self.grid.shape)) if on_cpu else len(state)
        parts = zip(state.split(chunk), forcing.split(chunk), strict=True)
        answers = [self._advance(part, reynolds[:, 0]) for part, reynolds in parts]
        return torch.cat(answers) if len(answers) > 1 else answers[0]

    def _advance(self, state: Tensor, reynolds: Tensor) -> Tensor:
        spacing = self.grid.spacing
        faces = self._diffused(to_faces(state, _INFLOW, spacing), reynolds)
        faces = advect(with_surroundings(faces, _INFLOW), self.grid.dt, spacing)
        return to_state(self._projected(faces))

    def _diffused(self, faces: Faces, reynolds: Tensor) -> Faces:
        substeps = self._substeps()
        share = self.grid.dt / substeps * _INFLOW * 2 * _RADIUS / reynolds
        share_v, share_u = _at_faces(share)
        for _ in range(substeps):
            padded = with_surroundings(faces, _INFLOW)
            faces = Faces(
                torch.addcmul(faces.v, share_v, laplacian(padded.v, self.grid.spacing)),
                torch.addcmul(faces.u, share_u, laplacian(padded.u, self.grid.spacing)),
            )
        return faces

    def _projected(self, faces: Faces) -> Faces:
        """Stopped on the cylinder, and without divergence."""
        open_faces, pressure = self._on(faces.v)
        faces = Faces(faces.v * open_faces.v, faces.u * open_faces.u)
        p = pressure.solve(divergence(faces, _INFLOW, self.grid.spacing))
        faces = minus_gradient(faces, p, self.grid.spacing)
        return Faces(faces.v * open_faces.v, faces.u * open_faces.u)

    def _substeps(self) -> int:
        """Diffusion substeps such that nu dt / n * sum(1 / dx^2) <= 1/2 at 0.9 min(Re)."""
        viscosity = _INFLOW * 2 * _RADIUS / (0.9 * min(self._reynolds))
        rate = viscosity * sum(dx**-2 for dx in self.grid.spacing)
        wanted = max(1.0, 2 * rate * self.grid.dt)
        check_positive("substeps that the diffusion of a step takes", wanted, 10**5)
        return math.ceil(wanted)

    def _on(self, like: Tensor) -> tuple[Faces, Pressure]:
        key = (like.dtype, like.device)
        if key not in self._prepared:
            faces = Faces(*(mask.to(like) for mask in self._open))
            self._prepared[key] = faces, self._pressure.to(like)
        return self._prepared[key]

    def __reduce__(self) -> tuple[Any, ...]:
        # What is prepared is megabytes, and made again in less time than it travels.
        return partial(type(self), **self._settings()), ()


@final
class Wake(_Wake):
    """Unsteady wake of a cylinder in 2-D, incompressible, as a black box.

        du/dt + (u . grad) u = -grad p + U D / Re laplace(u),   div u = 0

    The set-up of Solver-in-the-Loop (Um et al. 2020, appendix B): a stream of U = 1 along y
    through 200 x 100, round a cylinder of diameter D = 20 at (50, 50). One step: explicit
    viscosity (in as many substeps as stability asks for), semi-Lagrangian advection, projection
    on the fields without divergence and without flow through the cylinder. Re is physical: the
    same number is the same flow on every grid, up to the grid's own error.

    The state keeps velocity_y at the upper and velocity_x at the right face of each cell. The
    other faces follow: U at the inflow, and at x = 0 what leaves no divergence. Outside, beyond
    inflow and sides, is the free stream; p = 0 beyond the sides and the outflow. Cells with
    their centre inside the cylinder are solid, and no fluid moves through their faces.

    Args:
        shape: Cells along (y, x).
        dt: Time of one step.
        reynolds: Re of simulation 0, 1, .. of a scenario; after the last, the first again. The
            forcing may be anything from 0.9 of the lowest. Left out, 97.66 * 2^k (k = 0..5),
            then 146.5 * 2^k (k = 0..4), which are the published training and test cases.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 2, y, x) by dt at Reynolds numbers (batch, 1, y, x); no gradient."""
        with torch.no_grad():
            return self._checked_step(state.detach(), None if forcing is None else forcing.detach())

    def differentiable_twin(self) -> DifferentiableWake:
        """The same step with its autograd graph, for the SOL baseline alone."""
        return DifferentiableWake(**self._settings())

    @property
    def options(self) -> dict[str, Any]:
        """The physics, without the resolution."""
        return {k: v for k, v in self._settings().items() if k != "shape"}

    def at(self, shape: tuple[int, ...]) -> Wake:
        """The same physics on another grid."""
        return Wake(**{**self._settings(), "shape": shape})

    def downsample(self, fine: Float[Tensor, "batch 2 fine_y fine_x"]) -> State:
        """Mean over the fine faces of each coarse face: the flux through it, and div = 0, stay.

        Fluid moves through those coarse faces of the cylinder that the fine cylinder leaves
        partly open; the first step stops it. The fine counts are multiples of the grid's.
        """
        counts = tuple(fine.shape[2:])
        if len(counts) != 2 or any(n % c for n, c in zip(counts, self.grid.shape, strict=True)):
            raise InputError(
                "fine state", got=f"{counts} cells", expected=f"multiples of {self.grid.shape}"
            )
        return downsample_faces(fine, self.grid.shape)

    def vorticity(self, state: State) -> Float[Tensor, "batch y x"]:
        """dv/dx - du/dy at the centres of the cells; NaN inside the cylinder."""
        spacing = self.grid.spacing
        faces = with_surroundings(to_faces(state, _INFLOW, spacing), _INFLOW)
        return vorticity(faces, spacing).masked_fill(_cylinder(self.grid), math.nan)

    @torch.no_grad()
    def scenario(self, simulations: int, generator: torch.Generator) -> Scenario:
        """The stream round the cylinder, poked sideways behind it to set off the shedding.

            u(y, x) = a exp(-((y - 75)^2 + (x - 50)^2) / (2 * 6^2))

        with |a| uniform in [0.5, 1) and a sign by chance, then projected. The published poke lies
        further downstream, where at Re 97.66 shedding takes 2,000 steps to set in; here, some
        300. Simulation i has `reynolds[i]`.
        """
        strength = torch.rand(simulations, 2, generator=generator, dtype=torch.float64)
        amplitude = (0.5 + 0.5 * strength[:, 0]) * torch.where(strength[:, 1] < 0.5, -1, 1)
        dy, dx = self.grid.spacing
        ny, nx = self.grid.shape
        y = (torch.arange(ny, dtype=torch.float64) + 0.5) * dy
        x = torch.arange(nx + 1, dtype=torch.float64) * dx
        distance = (y[:, None] - _POKE[0]) ** 2 + (x - _POKE[1]) ** 2
        bump = torch.exp(-distance / (2 * _POKE_WIDTH**2))
        v = torch.full((simulations, ny, nx), _INFLOW, dtype=torch.float64)
        initial = to_state(self._projected(Faces(v, amplitude[:, None, None] * bump)))
        count = len(self._reynolds)
        numbers = torch.tensor([self._reynolds[i % count] for i in range(simulations)])
        forcing = numbers[:, None, None, None].repeat(1, *self.grid.forcing_shape)
        return Scenario(initial.float(), lambda _: forcing)


@final
class DifferentiableWake(_Wake):
    """`Wake` with its gradient. A scientist's solver has none: baseline only."""

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 2, y, x) by dt, keeping the autograd graph."""
        return self._checked_step(state, forcing)


def _cylinder(grid: Grid) -> Bool[Tensor, "y x"]:
    """Cells with their centre inside."""
    y, x = (torch.tensor(grid.centres(axis), dtype=torch.float64) for axis in (0, 1))
    return (y[:, None] - _CENTRE[0]) ** 2 + (x - _CENTRE[1]) ** 2 < _RADIUS**2


def _open_faces(solid: Tensor) -> Faces:
    """(1, ..), True at the faces that touch no solid cell."""
    fluid = ~solid[None]
    v = fluid & torch.cat([fluid[:, 1:], fluid[:, -1:]], dim=1)
    u = torch.cat([fluid, fluid[..., -1:]], dim=2) & torch.cat([fluid[..., :1], fluid], dim=2)
    return Faces(v, u)


def _at_faces(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the two cells beside each face; of the one there is at the border."""
    v = 0.5 * (cells + torch.cat([cells[:, 1:], cells[:, -1:]], dim=1))
    wide = torch.cat([cells[..., :1], cells, cells[..., -1:]], dim=2)
    return v, 0.5 * (wide[..., 1:] + wide[..., :-1])
