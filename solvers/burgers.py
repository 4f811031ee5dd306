"""Forced advection-diffusion ("Burgers") in 2-D, stepped by PhiFlow."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, final

import torch
from phi.flow import PERIODIC, Box, CenteredGrid, batch, channel, spatial
from phi.physics import advect, diffuse
from phiml import math as phimath
from phiml.backend.torch import TORCH
from torch import Tensor

from zopde.contracts import Forcing, Scenario, State
from zopde.grid import Grid, check_forcing, check_state
from zopde.validate import check_positive

Step: TypeAlias = Callable[[Tensor, Tensor], Tensor]
_FORCES = 20
_KEPT_SHAPES = 16


class _Burgers:
    """One step, with or without a gradient, and the compiled forms of it."""

    def __init__(
        self,
        shape: tuple[int, ...] = (32, 32),
        extent: float = 32.0,
        dt: float = 0.1,
        viscosity: float = 0.1,
        compiled: bool = True,
    ) -> None:
        check_positive("viscosity", viscosity)
        self.grid = Grid(
            shape=tuple(shape),
            extent=(float(extent), float(extent)),
            dt=float(dt),
            channels=("velocity_y", "velocity_x"),
            forcing_channels=("force_y", "force_x"),
        )
        self._viscosity = float(viscosity)
        self._compiled = compiled
        self._steps: dict[tuple[Any, ...], Step] = {}
        self._substeps()  # too many must be known now

    def _settings(self) -> dict[str, Any]:
        return {
            "shape": self.grid.shape,
            "extent": self.grid.extent[0],
            "dt": self.grid.dt,
            "viscosity": self._viscosity,
            "compiled": self._compiled,
        }

    def _checked_step(self, state: State, forcing: Forcing | None) -> State:
        check_state(self.grid, state)
        check_forcing(self.grid, forcing, len(state))
        assert forcing is not None
        if not self._compiled:
            with _phiflow_like(state):
                return self._phiflow_step(state, forcing)
        key = (tuple(state.shape), state.dtype, state.device)
        if key not in self._steps:
            while len(self._steps) >= _KEPT_SHAPES:
                del self._steps[next(iter(self._steps))]
            self._steps[key] = _compiled(self._phiflow_step, state, forcing)
        return self._steps[key](state, forcing)

    def _phiflow_step(self, state: Tensor, forcing: Tensor) -> Tensor:
        """(batch, channel, *space) -> the same, by way of a cell-centred vector field."""
        dims, dt = self.grid.dims, self.grid.dt
        names = ",".join(dims)
        values = phimath.wrap(state, batch("states"), channel(vector=names), spatial(names))
        box = Box(**dict(zip(dims, self.grid.extent, strict=True)))
        velocity = CenteredGrid(values, PERIODIC, box)
        velocity = diffuse.explicit(velocity, self._viscosity, dt, self._substeps())
        velocity = advect.semi_lagrangian(velocity, velocity, dt)
        moved: Tensor = velocity.values.native(["states", "vector", *dims])
        return moved + dt * forcing

    def _substeps(self) -> int:
        """Diffusion substeps such that nu dt / n * sum(1 / dx^2) <= 1/2, the stability limit."""
        rate = self._viscosity * sum(dx**-2 for dx in self.grid.spacing)
        wanted = max(1.0, 2 * rate * self.grid.dt)
        check_positive("substeps that the diffusion of a step takes", wanted, 10**5)
        return math.ceil(wanted)

    def __getstate__(self) -> dict[str, Any]:
        # Compiled steps belong to this process; another one compiles its own.
        return {**self.__dict__, "_steps": {}}


@final
class Burgers(_Burgers):
    """Forced 2-D advection-diffusion of a velocity, by PhiFlow, as a black box.

        du/dt + (u . grad) u = nu laplace(u) + f,   periodic on [0, L]^2

    One step: explicit diffusion (in as many substeps as stability asks for), then
    semi-Lagrangian advection of the velocity by itself, then u += dt f. The forced set-up of
    Solver-in-the-Loop (Um et al. 2020, appendix B): dt 0.1, nu 0.1, L 32.

    Args:
        shape: Cells along (y, x).
        extent: L, the length of both sides.
        dt: Time of one step.
        viscosity: nu, > 0.
        compiled: Record PhiFlow's operations once per batch size (same numbers, less
            Python); False calls PhiFlow every time.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 2, y, x) by dt; no gradient. See `zopde.Solver.step`."""
        with torch.no_grad():
            return self._checked_step(state.detach(), None if forcing is None else forcing.detach())

    def differentiable_twin(self) -> DifferentiableBurgers:
        """The same step with its autograd graph, for the SOL baseline alone."""
        return DifferentiableBurgers(**self._settings())

    @property
    def options(self) -> dict[str, str | int | float]:
        """The physics, without the resolution."""
        return {k: v for k, v in self._settings().items() if k not in ("shape", "compiled")}

    def at(self, shape: tuple[int, ...]) -> Burgers:
        """The same physics on another grid."""
        return Burgers(**{**self._settings(), "shape": shape})

    def scenario(self, simulations: int, generator: torch.Generator) -> Scenario:
        """Fluid at rest, driven by 20 travelling sine forces per simulation.

            f(x, t) = sum_j a_j sin(k_j . x + w_j t + p_j)

        with direction of k in [0, pi), |k| = 0.8 (1 + U), each component of a = 0.3 (U - 1/2),
        w in [-0.4, 0.4), p in [0, 2 pi). The waves are not fitted to the period of the domain,
        as in the published set-up, so f jumps at the seam.
        """
        initial = torch.zeros(simulations, *self.grid.state_shape)
        return Scenario(initial, _waves(self.grid, simulations, generator))


@final
class DifferentiableBurgers(_Burgers):
    """`Burgers` with its gradient. A scientist's solver has none: baseline only."""

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 2, y, x) by dt, keeping the autograd graph."""
        return self._checked_step(state, forcing)


def _waves(grid: Grid, simulations: int, generator: torch.Generator) -> Callable[[int], Tensor]:
    """The forces: step number -> (simulation, 2, y, x).

    They are float64, so that they do not depend on the precision.
    """

    def uniform(*more: int) -> Tensor:
        shape = (simulations, _FORCES, *more)
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    angle, length = math.pi * uniform(), 0.8 * (1 + uniform())
    wave = torch.stack([length * angle.sin(), length * angle.cos()], dim=-1)
    amplitude = 0.3 * (uniform(2) - 0.5)
    frequency = 0.8 * (uniform() - 0.5)
    phase = 2 * math.pi * uniform()
    axes = [torch.tensor(grid.centres(axis), dtype=torch.float64) for axis in (0, 1)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    still = torch.einsum("sjd,dyx->sjyx", wave, places) + phase[..., None, None]

    def at(step: int) -> Tensor:
        moved = still + (frequency * step * grid.dt)[..., None, None]
        return torch.einsum("sjc,sjyx->scyx", amplitude, moved.sin())

    return at


@contextmanager
def _phiflow_like(state: Tensor) -> Iterator[None]:
    """PhiFlow computes in the precision and on the device of `state` inside this context."""
    before = TORCH.get_default_device()
    TORCH.set_default_device(TORCH.get_device(state))
    try:
        # `with TORCH` makes it PhiFlow's default backend, whatever the user chose elsewhere.
        with TORCH, phimath.precision(torch.finfo(state.dtype).bits):
            yield
    finally:
        TORCH.set_default_device(before)


def _compiled(step: Step, state: Tensor, forcing: Tensor) -> Step:
    """Record PhiFlow's torch operations once, for one shape, dtype and device.

    PhiFlow spends about 20 ms of Python on every call, whatever the batch; the recorded
    operations give the same numbers, bit for bit, without it, and autograd sees through them.
    """
    with warnings.catch_warnings():
        # Every size that the tracer warns of is fixed by the key under which this is kept.
        warnings.simplefilter("ignore")
        with _phiflow_like(state):
            traced = torch.jit.trace(step, (state.detach(), forcing.detach()), check_trace=False)

    def run(state: Tensor, forcing: Tensor) -> Tensor:
        # Without the optimiser the operations stay the same ones at every call, which an
        # exact resume needs.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            answer: Tensor = traced(state, forcing)
        return answer

    return run
