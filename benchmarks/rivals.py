"""A 3-D flow, and an emulator: what `tangent.py` measures the tangent on, and against."""

from __future__ import annotations

from math import pi
from typing import Any

import torch
from torch import Tensor, nn

from zopde import Grid, Scenario
from zopde.training import cosine

SUBSTEPS = 3


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
        self._modes = torch.where(2 * modes.abs() == limits, 0.0, modes)
        self._square = self._modes.square().sum(dim=0)

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
        along = (self._modes * hat).sum(dim=1, keepdim=True) / self._square.clamp_min(1.0)
        return hat - self._modes * along

    def _spectrum(self, state: Tensor) -> Tensor:
        return torch.fft.rfftn(state, dim=(2, 3, 4))

    def _fields(self, hat: Tensor) -> Tensor:
        return torch.fft.irfftn(hat, s=self.grid.shape, dim=(2, 3, 4))


class DifferentiableSpectral(Spectral):
    """`Spectral` with its gradient."""

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """See `zopde.Solver`."""
        return self._advance(state)


class Emulator(nn.Module):
    """Predicts a step's result: E(u, f) = u + s M(u / s, f / s_f), M a multigrid of convolutions.

    Its width is the largest with which it has no more than `weights` weights, and 2 at least.
    """

    def __init__(self, grid: Grid, scale: Tensor, drive: Tensor | None, weights: int) -> None:
        super().__init__()
        self._axes, self._mode = len(grid.shape), "circular" if all(grid.periodic) else "zeros"
        space = [1] * self._axes
        self.scale = scale.view(-1, *space)
        self.drive = scale.new_ones(1) if drive is None else drive.view(-1, *space)
        maps = 0 if all(grid.periodic) else 4
        self.maps = nn.Parameter(torch.zeros(maps, *grid.shape))
        self._ends = len(grid.channels + grid.forcing_channels) + maps, len(grid.channels)
        self._levels = min(n.bit_length() - 2 for n in grid.shape)
        width = 4
        while self._build(width + 2) <= weights:
            width += 2
        self._build(width)

    def _build(self, width: int) -> int:
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self._axes - 1]
        raised = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[self._axes - 1]

        def same(inputs: int, outputs: int) -> nn.Module:
            return conv(inputs, outputs, 3, padding=1, padding_mode=self._mode)

        levels = range(self._levels)
        self.enter, self.leave = same(self._ends[0], width), same(width, self._ends[1])
        self.down = nn.ModuleList(conv(width, width, 2, stride=2) for _ in levels)
        self.along = nn.ModuleList(same(width, width) for _ in levels)
        self.up = nn.ModuleList(raised(width, width, 2, stride=2) for _ in levels)
        self.back = nn.ModuleList(same(2 * width, width) for _ in levels)
        return sum(p.numel() for p in self.parameters())

    def forward(self, state: Tensor, forcing: Tensor | None) -> Tensor:
        """(batch, channel, *space), the state a step later."""
        seen = [state / self.scale, self.maps.expand(len(state), *self.maps.shape)]
        if forcing is not None:
            seen.append(forcing / self.drive)
        gelu = nn.functional.gelu
        x = gelu(self.enter(torch.cat(seen, dim=1)))
        skips = []
        for down, along in zip(self.down, self.along, strict=True):
            skips.append(x)
            x = gelu(along(down(x)))
        for up, back in zip(reversed(self.up), reversed(self.back), strict=True):
            x = gelu(back(torch.cat([up(x), skips.pop()], dim=1)))
        return state + self.scale * self.leave(x)

    def learn(
        self,
        states: Tensor,
        forcing: Tensor | None,
        rows: Tensor,
        stepped: Tensor,
        batch: int,
        iterations: int,
    ) -> None:
        """Fit the values; `rows[n]` is the forcing of state n."""
        optimizer: Any = torch.optim.Adam(self.parameters(), lr=3e-3, betas=(0.9, 0.99))
        change = ((stepped - states) / self.scale).square().mean()
        for i in range(iterations):
            some = torch.randint(len(states), (batch,))
            driven = None if forcing is None else forcing[rows[some]]
            off = (self(states[some], driven) - stepped[some]) / self.scale
            optimizer.zero_grad()
            (off.square().mean() / change).backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = 3e-3 * cosine(i, iterations, iterations // 5)
            optimizer.step()
