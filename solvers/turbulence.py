"""Decaying turbulence in a periodic cube, incompressible, on a staggered grid."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from zopde.contracts import Forcing, Scenario, State
from zopde.errors import InputError
from zopde.grid import Grid, check_forcing, check_state
from zopde.validate import check_positive

_SHORTEST = 3  # waves that the cube holds of the shortest one of a scenario
_FASTEST = 3.0  # |u_z| + |u_y| + |u_x| for which the substeps are stable
# Cells side by side in one pass on a CPU: their fields stay in the cache.
_CHUNK_CELLS = 2**16


class _Turbulence:
    """One step, with or without a gradient."""

    def __init__(
        self, shape: tuple[int, ...] = (16, 16, 16), dt: float = 0.2, viscosity: float = 0.02
    ) -> None:
        check_positive("viscosity", viscosity)
        self._viscosity = float(viscosity)
        channels = ("velocity_z", "velocity_y", "velocity_x")
        self.grid = Grid(tuple(shape), (2 * math.pi,) * len(shape), float(dt), channels)
        if len(shape) != 3:
            raise InputError("shape", got=tuple(shape), expected="cells along (z, y, x)")
        # Of Runge-Kutta with three stages: up to 1.7 for advection, up to 2.5 for diffusion.
        advection = _FASTEST / min(self.grid.spacing) / 1.7
        diffusion = 4 * self._viscosity * sum(dx**-2 for dx in self.grid.spacing) / 2.5
        wanted = max(1.0, self.grid.dt * (advection + diffusion))
        check_positive("substeps that a step takes", wanted, 10**5)
        self._substeps = math.ceil(wanted)
        counts = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[:2]]
        counts.append(torch.fft.rfftfreq(shape[2], dtype=torch.float64))
        squares = [
            (2 - 2 * (2 * math.pi * count).cos()) / dx**2
            for count, dx in zip(counts, self.grid.spacing, strict=True)
        ]
        laplacian = -(squares[0][:, None, None] + squares[1][:, None] + squares[2])
        laplacian[0, 0, 0] = 1.0  # a pressure has no mean: its divergence is 0
        self._inverse = 1 / laplacian

    def divergence(self, state: State) -> Float[Tensor, "batch z y x"]:
        """du_z/dz + du_y/dy + du_x/dx in every cell; 0 after a step, up to rounding."""
        parts = zip(state.unbind(1), self.grid.spacing, strict=True)
        return torch.stack([(u - u.roll(1, 1 + i)) / dx for i, (u, dx) in enumerate(parts)]).sum(0)

    def _checked_step(self, state: State, forcing: Forcing | None) -> State:
        check_state(self.grid, state)
        check_forcing(self.grid, forcing, len(state))
        on_cpu = state.device.type == "cpu"
        chunk = max(1, _CHUNK_CELLS // math.prod(self.grid.shape)) if on_cpu else len(state)
        return torch.cat([self._advance(part) for part in state.split(chunk)])

    def _advance(self, state: Tensor) -> Tensor:
        state = self._projected(state)
        for _ in range(self._substeps):
            moved = state
            for share in (3, 2, 1):
                force = self._force(moved)
                moved = self._projected(state + self.grid.dt / self._substeps / share * force)
            state = moved
        return state

    def _force(self, state: Tensor) -> Tensor:
        """-div(u u) + nu laplace(u), without the pressure."""
        forces = []
        for i, u in enumerate(state.unbind(1)):
            force = torch.zeros_like(u)
            for j, dx in enumerate(self.grid.spacing):
                ahead, across = u.roll(-1, 1 + j), state[:, j]
                flux = 0.25 * (u + ahead) * (across + across.roll(-1, 1 + i))
                flux = torch.sub(flux, ahead - u, alpha=self._viscosity / dx)
                force = torch.add(force, flux - flux.roll(1, 1 + j), alpha=-1 / dx)
            forces.append(force)
        return torch.stack(forces, dim=1)

    def _projected(self, state: Tensor) -> Tensor:
        """The nearest velocity without divergence."""
        modes = torch.fft.rfftn(self.divergence(state), dim=(1, 2, 3)) * self._inverse.to(state)
        p = torch.fft.irfftn(modes, s=self.grid.shape, dim=(1, 2, 3))
        slopes = [(p.roll(-1, 1 + i) - p) / dx for i, dx in enumerate(self.grid.spacing)]
        return state - torch.stack(slopes, dim=1)


@final
class Turbulence(_Turbulence):
    """Decaying turbulence in a periodic cube of side 2 pi, incompressible, as a black box.

        du/dt + (u . grad) u = -grad p + nu laplace(u),   div u = 0

    The state keeps each velocity at the upper face of its cell (a staggered grid): velocity_z at
    the face towards larger z, and so on. Differences and means are of second order and keep the
    energy of a flow without viscosity, so a coarse grid does not blow up. Waves of a few cells
    travel too slowly, and eddies smaller than a cell take no energy away: this is what a
    corrector can learn. A Fourier method would have the second error alone.

    One step: projection, which makes any state a legal one, then Runge-Kutta substeps of three
    stages, u + h/3 f, u + h/2 f, u + h f (Wicker and Skamarock 2002), with a projection after
    each. The projection solves for the pressure by an FFT of the difference formulas, so no
    divergence is left. There are as many substeps as |u_z| + |u_y| + |u_x| <= 3 needs.

    Args:
        shape: Cells along (z, y, x).
        dt: Time of one step.
        viscosity: nu, > 0. With the default, over 8 units of time, 32 cells along each axis stay
            within 13 % of the velocity that 64 give; 16 cells are up to 54 % off.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 3, z, y, x) by dt; no gradient. See `zopde.Solver.step`."""
        with torch.no_grad():
            return self._checked_step(state, forcing)

    def differentiable_twin(self) -> DifferentiableTurbulence:
        """The same step with its autograd graph, for the SOL baseline alone."""
        return DifferentiableTurbulence(self.grid.shape, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """The physics, without the resolution."""
        return {"dt": self.grid.dt, "viscosity": self._viscosity}

    def at(self, shape: tuple[int, ...]) -> Turbulence:
        """The same physics on another grid."""
        return Turbulence(shape, **self.options)

    def downsample(self, fine: Float[Tensor, "batch 3 fine_z fine_y fine_x"]) -> State:
        """Mean over the fine faces of each coarse face: the flux through it, and div = 0, stay.

        The fine counts are multiples of the grid's.
        """
        counts, shape = tuple(fine.shape[2:]), self.grid.shape
        if len(counts) != 3 or any(n % c for n, c in zip(counts, shape, strict=True)):
            raise InputError("fine state", got=f"{counts} cells", expected=f"multiples of {shape}")
        faces = []
        for i, u in enumerate(fine.unbind(1)):
            block = [n // c for n, c in zip(counts, shape, strict=True)]
            shared = torch.arange(block[i] - 1, counts[i], block[i], device=fine.device)
            block[i] = 1
            faces.append(functional.avg_pool3d(u.index_select(1 + i, shared), block))
        return torch.stack(faces, dim=1)

    def scenario(self, simulations: int, generator: torch.Generator) -> Scenario:
        """Random waves with |k| <= 3, without divergence; the rms of all velocities is 1/2."""
        numbers = torch.arange(_SHORTEST + 1, dtype=torch.float64)

        def waves(axis: int, at_face: bool) -> Tensor:
            places = torch.tensor(self.grid.centres(axis), dtype=torch.float64)
            turns = numbers[:, None] * (places + 0.5 * self.grid.spacing[axis] * at_face)
            return torch.cat([turns.cos(), turns.sin()[1:]])

        square = torch.cat([numbers, numbers[1:]]).square()
        square = square[:, None, None] + square[:, None] + square
        kept = (square > 0) & (square <= _SHORTEST**2)
        shape = (simulations, 3, *kept.shape)
        strength = kept * torch.randn(shape, generator=generator, dtype=torch.float64)
        velocities = []
        for i in range(3):
            along = (waves(j, at_face=i == j) for j in range(3))
            velocities.append(torch.einsum("sabc,az,by,cx->szyx", strength[:, i], *along))
        state = self._projected(torch.stack(velocities, dim=1))
        rms = state.square().mean(dim=(1, 2, 3, 4), keepdim=True).sqrt()
        return Scenario((0.5 / rms * state).float())


@final
class DifferentiableTurbulence(_Turbulence):
    """`Turbulence` with its gradient. A scientist's solver has none: baseline only."""

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 3, z, y, x) by dt, keeping the autograd graph."""
        return self._checked_step(state, forcing)
