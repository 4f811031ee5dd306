"""The Kuramoto-Sivashinsky equation in 1-D, by finite differences and an implicit linear part."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor

from zopde.contracts import Forcing, Scenario, State
from zopde.errors import InputError
from zopde.grid import Grid, check_forcing, check_state

_WAVES = 8
# Of the implicit Runge-Kutta scheme: its diagonal, and the weight of the first stage.
_GAMMA = 1 - 1 / math.sqrt(2)
_DELTA = 1 - 1 / (2 * _GAMMA)


class _KuramotoSivashinsky:
    """One step, with or without a gradient."""

    def __init__(
        self, shape: tuple[int, ...] = (64,), extent: float = 64.0, dt: float = 0.1
    ) -> None:
        self.grid = Grid(tuple(shape), (float(extent),) * len(shape), float(dt), ("u",))
        if len(shape) != 1:
            raise InputError("shape", got=tuple(shape), expected="cells along one axis, such as 64")
        (dx,) = self.grid.spacing
        angle = 2 * math.pi * torch.fft.rfftfreq(shape[0], dtype=torch.float64)
        second = (2 * angle.cos() - 2) / dx**2
        self._first: Tensor = 1j * angle.sin() / dx
        self._linear = -second - second.square()

    def _checked_step(self, state: State, forcing: Forcing | None) -> State:
        check_state(self.grid, state)
        check_forcing(self.grid, forcing, len(state))
        return self._advance(state.double()).to(state.dtype)

    def _advance(self, state: Tensor) -> Tensor:
        dt, linear = self.grid.dt, self._linear.to(state.device)
        inverse = 1 / (1 - _GAMMA * dt * linear)
        modes = torch.fft.rfft(state)
        steepened = self._steepened(state)
        middle = inverse * (modes + _GAMMA * dt * steepened)
        again = self._steepened(self._values(middle))
        explicit = _DELTA * steepened + (1 - _DELTA) * again
        return self._values(inverse * (modes + dt * (explicit + (1 - _GAMMA) * linear * middle)))

    def _steepened(self, state: Tensor) -> Tensor:
        """The Fourier modes of -(u^2 / 2)_x."""
        squares: Tensor = torch.fft.rfft(state.square() / 2)
        return -self._first.to(state.device) * squares

    def _values(self, modes: Tensor) -> Tensor:
        values: Tensor = torch.fft.irfft(modes, n=self.grid.shape[0])
        return values


@final
class KuramotoSivashinsky(_KuramotoSivashinsky):
    """The Kuramoto-Sivashinsky equation in 1-D, a small chaotic flow, as a black box.

        u_t = -u u_x - u_xx - u_xxxx,   periodic on [0, L]

    Waves longer than 2 pi grow, shorter ones decay, and -u u_x carries energy from the first to
    the second. On L = 64, the default, seven or eight humps merge and split for ever, and the
    distance of two close states grows e-fold in about ten units of time.

    Second-order differences replace the derivatives: (u^2 / 2)_x is centred and keeps the sum
    of u, and u_xxxx is u_xx taken twice. They find too little curvature in a hump of few cells:
    the error of a coarse grid. In time the step is ARS(2, 2, 2) of Ascher, Ruuth and Spiteri
    (1997), of second order: an FFT solves the implicit linear part, and -u u_x is explicit. It
    computes in float64 and answers in the precision of the state.

    Args:
        shape: Cells, (x,).
        extent: L, the length of the domain.
        dt: Time of one step.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 1, x) by dt; no gradient. See `zopde.Solver.step`."""
        with torch.no_grad():
            return self._checked_step(state, forcing)

    def differentiable_twin(self) -> DifferentiableKuramotoSivashinsky:
        """The same step with its autograd graph, for the SOL baseline alone."""
        return DifferentiableKuramotoSivashinsky(self.grid.shape, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """The physics, without the resolution."""
        return {"extent": self.grid.extent[0], "dt": self.grid.dt}

    def at(self, shape: tuple[int, ...]) -> KuramotoSivashinsky:
        """The same physics on another grid."""
        return KuramotoSivashinsky(shape, **self.options)

    def scenario(self, simulations: int, generator: torch.Generator) -> Scenario:
        """Eight long waves, which become chaos within some hundred units of time.

            u(x) = sum_j a_j cos(2 pi j x / L + p_j),   j = 1 .. 8

        with a in [-1/2, 1/2) and p in [0, 2 pi).
        """
        draw = torch.rand(2, simulations, _WAVES, 1, generator=generator, dtype=torch.float64)
        x = torch.tensor(self.grid.centres(0), dtype=torch.float64)
        number = torch.arange(1, _WAVES + 1, dtype=torch.float64)[:, None]
        turns = number * x / self.grid.extent[0] + draw[1]
        waves = (draw[0] - 0.5) * (2 * math.pi * turns).cos()
        return Scenario(waves.sum(dim=1, keepdim=True).float())


@final
class DifferentiableKuramotoSivashinsky(_KuramotoSivashinsky):
    """`KuramotoSivashinsky` with its gradient. A scientist's solver has none: baseline only."""

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 1, x) by dt, keeping the autograd graph."""
        return self._checked_step(state, forcing)
