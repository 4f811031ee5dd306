"""The flows of `tangent.py`: sizes, a 3-D solver, and reference data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from math import pi
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde import Grid, Scenario, downsample, load_solver

SEEN, UNSEEN = 6, 2  # runs from which pairs are drawn, and others
SUBSTEPS = 3
_BEGIN = 128  # cells along the longest axis of the grid on which runs begin


@dataclass(frozen=True)
class Size:
    """A solver, its grid, and how much reference data there is."""

    solver: str
    shape: tuple[int, ...]
    steps: int  # kept of every run
    begin: int = 300  # steps on a small grid beforehand
    settle: int = 10  # steps on the reference's own grid beforehand
    finer: int = 2  # the reference has so many times the cells along each axis; 1: see `solver_of`
    windows: int = 2  # side by side
    iterations: int = 400  # of each of the two rounds of the fit
    snapshots: int = 0  # of the bank; 0 where it does not fit


SIZES = {
    "wake-64x32": Size("wake", (64, 32), 200, snapshots=6),
    "burgers-128x128": Size("burgers", (128, 128), 100, begin=30),
    "flow3d-32": Size("flow3d", (32, 32, 32), 60, begin=10, finer=1),
    "wake-128x64": Size("wake", (128, 64), 200),
    "wake-256x128": Size("wake", (256, 128), 80, windows=1, iterations=1000),
    "wake-512x256": Size("wake", (512, 256), 40, finer=1, windows=1, iterations=1000),
}


class Spectral:
    """Incompressible flow in a periodic cube, by Fourier modes; a black box.

        du/dt = u x curl u - grad p + nu laplace(u),   div u = 0,   on [0, 2 pi]^3

    One step: projection, then midpoint substeps with exact viscosity; products without the upper
    third of the modes.
    """

    def __init__(self, shape: tuple[int, ...], viscosity: float, dt: float = 0.1) -> None:
        names = ("velocity_z", "velocity_y", "velocity_x")
        self.grid = Grid(tuple(shape), (2 * pi,) * 3, dt, names)
        self._viscosity = viscosity
        counts = [torch.fft.fftfreq(n, 1 / n) for n in shape[:-1]]
        counts.append(torch.fft.rfftfreq(shape[-1], 1 / shape[-1]))
        modes = torch.stack(torch.meshgrid(*counts, indexing="ij"))
        limits = torch.tensor(shape).view(-1, 1, 1, 1)
        self._kept = (3 * modes.abs() < limits).all(dim=0).float()
        # The highest mode of an axis has no derivative, but viscosity takes it away.
        self._modes = torch.where(2 * modes.abs() == limits, 0.0, modes)
        self._square = modes.square().sum(dim=0)

    def at(self, shape: tuple[int, ...]) -> Spectral:
        """The same physics on another grid."""
        return Spectral(shape, self._viscosity, self.grid.dt)

    def differentiable_twin(self) -> DifferentiableSpectral:
        """The same step with its autograd graph."""
        return DifferentiableSpectral(self.grid.shape, self._viscosity, self.grid.dt)

    def scenario(self, simulations: int, generator: torch.Generator) -> Scenario:
        """Random waves with |k| <= 3, of rms 0.5, without divergence."""
        noise = torch.randn(simulations, *self.grid.state_shape, generator=generator)
        waves = self._fields(self._projected(self._spectrum(noise)) * (self._square <= 9))
        return Scenario(0.5 * waves / waves.flatten(1).std(dim=1).view(-1, 1, 1, 1, 1))

    @torch.no_grad()
    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """See `zopde.Solver`."""
        return self._advance(state)

    def _advance(self, state: Tensor) -> Tensor:
        h = self.grid.dt / SUBSTEPS
        half = torch.exp(-self._viscosity * self._square * h / 2)
        hat = self._projected(self._spectrum(state))
        for _ in range(SUBSTEPS):
            middle = half * (hat + h / 2 * self._turned(hat))
            hat = half * (half * hat + h * self._turned(middle))
        return self._fields(hat)

    def _turned(self, hat: Tensor) -> Tensor:
        curl = self._fields(torch.linalg.cross(1j * self._modes.expand(hat.shape), hat, dim=1))
        force = torch.linalg.cross(self._fields(hat), curl, dim=1)
        return self._projected(self._kept * self._spectrum(force))

    def _projected(self, hat: Tensor) -> Tensor:
        size = self._modes.square().sum(dim=0).clamp_min(1.0)
        return hat - self._modes * (self._modes * hat).sum(dim=1, keepdim=True) / size

    def _spectrum(self, state: Tensor) -> Tensor:
        return torch.fft.rfftn(state, dim=(2, 3, 4))

    def _fields(self, hat: Tensor) -> Tensor:
        return torch.fft.irfftn(hat, s=self.grid.shape, dim=(2, 3, 4))


class DifferentiableSpectral(Spectral):
    """`Spectral` with its gradient."""

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """See `zopde.Solver`."""
        return self._advance(state)


def solver_of(size: Size, reference: bool = False) -> Any:  # noqa: ANN401 - has more than `Solver`
    """The solver on a size's grid, or what makes its reference data.

    That has a finer grid, or the same grid and half the viscosity.
    """
    thinner = 2 if reference and size.finer == 1 else 1
    if size.solver == "flow3d":
        return Spectral(size.shape, 0.03 / thinner)
    solver = load_solver(size.solver)
    if thinner > 1:
        reynolds = [thinner * number for number in solver.options["reynolds"]]
        solver = load_solver(size.solver, {"reynolds": reynolds})
    return solver.at(tuple(size.finer * n for n in size.shape) if reference else size.shape)


@torch.no_grad()
def reference(size: Size, seed: int) -> tuple[Tensor, Tensor | None]:
    """Runs on the coarse grid: (run, time, channel, *space), and the coarse solver's forcing."""
    coarse, fine = solver_of(size), solver_of(size, reference=True)
    least = min(_BEGIN / max(fine.grid.shape), 1.0)
    small = fine.at(tuple(int(n * least) for n in fine.grid.shape))
    begun, told, driving = (
        solver.scenario(SEEN + UNSEEN, torch.Generator().manual_seed(seed))
        for solver in (small, coarse, fine)
    )

    def by_cells(values: Tensor) -> Tensor:
        return downsample(values, size.shape)

    state, start = begun.initial.float(), size.begin + size.settle
    for t in range(size.begin):
        state = small.step(state, begun.forcing(t).float() if begun.forcing else None)
    if small.grid.shape != fine.grid.shape:
        state = F.interpolate(state, size=fine.grid.shape, mode="bilinear")
    states, forcings = [], []
    for t in range(size.begin, start + size.steps + 1):
        forcing = driving.forcing(t).float() if driving.forcing else None
        if t >= start:
            states.append(getattr(coarse, "downsample", by_cells)(state))
            if told.forcing:
                forcings.append(told.forcing(t).float())
        # A run at a time takes little memory
        runs = zip(
            state.split(1), forcing.split(1) if driving.forcing else repeat(None), strict=False
        )
        state = torch.cat([fine.step(*run) for run in runs])
    return torch.stack(states, 1), torch.stack(forcings, 1) if forcings else None
