"""The Lorenz-96 models: slow variables on a circle, and fast ones beside them or not."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from torch import Tensor

from zopde.contracts import Forcing, Scenario, State
from zopde.errors import InputError
from zopde.grid import Grid, check_forcing, check_state
from zopde.validate import check_choice, check_count, check_not_negative, check_positive

_LEAST = 4  # slow variables, so that the four of one equation differ
_MOST = 10**4


class _Lorenz96:
    """One step, with or without a gradient."""

    def __init__(
        self,
        shape: tuple[int, ...] = (),
        slow: int = 36,
        dt: float = 0.05,
        force: float = 10.0,
        drag: float = 1.0,
        coupling: float = 1.0,
        amplitude: float = 10.0,
        speed: float = 10.0,
        unknown: Literal["", "force", "drag"] = "",
    ) -> None:
        numbers = {"force": force, "drag": drag, "amplitude": amplitude, "speed": speed}
        for name, number in numbers.items():
            check_positive(name, number, _MOST)
        check_not_negative("coupling", coupling)
        check_choice("unknown", unknown, ("", "force", "drag"))
        check_count("slow", slow, _MOST)
        given, shape = (unknown,) if unknown else (), tuple(shape) or (slow,)
        if len(shape) != 1 or slow < _LEAST or shape[0] < slow or shape[0] % slow:
            expected = f"slow (at least {_LEAST}) or a multiple of it, along one axis"
            raise InputError("shape", got=f"{shape} with slow={slow}", expected=expected)
        self.grid = Grid(shape, (float(slow),), dt, ("X",), given)
        self._slow, self._unknown = slow, unknown
        self._known = {"force": float(force), "drag": float(drag)}
        self._coupling, self._amplitude, self._speed = coupling, amplitude, speed

    @property
    def options(self) -> dict[str, Any]:
        """The physics, without the resolution."""
        scales = {"coupling": self._coupling, "amplitude": self._amplitude, "speed": self._speed}
        own = {"slow": self._slow, "dt": self.grid.dt, "unknown": self._unknown}
        return {**own, **self._known, **scales}

    def _checked_step(self, state: State, forcing: Forcing | None) -> State:
        check_state(self.grid, state)
        check_forcing(self.grid, forcing, len(state))
        given: dict[str, Any] = dict(self._known)
        if forcing is not None:
            given[self._unknown] = self._parts(forcing)[0]
        x, y = self._parts(state)
        # Fast variables turn `speed` times as fast, and need as many shorter steps.
        count = max(1, round(self._speed)) if y.shape[1] else 1
        dt = self.grid.dt / count
        for _ in range(count):
            of_x, of_y = self._change(x, y, given)
            sum_x, sum_y = of_x, of_y
            for part, weight in ((dt / 2, 2), (dt / 2, 2), (dt, 1)):
                of_x, of_y = self._change(x + part * of_x, y + part * of_y, given)
                sum_x, sum_y = sum_x + weight * of_x, sum_y + weight * of_y
            x, y = x + dt / 6 * sum_x, y + dt / 6 * sum_y
        both = torch.cat([x[..., None], y.unflatten(1, (self._slow, -1))], dim=2)
        return both.view_as(state).to(state.dtype)

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 1, cell) -> the slow variables (batch, k) and all fast ones (batch, i)."""
        parts = values.double().view(len(values), self._slow, -1)
        return parts[..., 0], parts[..., 1:].flatten(1)

    def _change(self, x: Tensor, y: Tensor, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        of_x = _turned(x, 1) - given["drag"] * x + given["force"]
        if not y.shape[1]:
            return of_x, y
        c, b, each = self._speed, self._amplitude, y.shape[1] // self._slow
        coupled = self._coupling * c / b
        of_x = of_x - coupled * y.unflatten(1, (-1, each)).sum(dim=2)
        of_y = c * b * _turned(y, -1) - c * y + coupled * x.repeat_interleave(each, 1)
        return of_x, of_y


def _turned(x: Tensor, way: int) -> Tensor:
    """-x[k-1] (x[k-2] - x[k+1]), which keeps the energy; way -1 runs round the other way."""
    return x.roll(way, 1) * (x.roll(-way, 1) - x.roll(2 * way, 1))


@final
class Lorenz96(_Lorenz96):
    """The models of Lorenz (1996), "Predictability: a problem partly solved", as a black box.

        dX[k]/dt = -X[k-1] (X[k-2] - X[k+1]) - d X[k] + F - (h c / b) sum_j Y[j, k]
        dY[i]/dt = -c b Y[i+1] (Y[i+2] - Y[i-1]) - c Y[i] + (h c / b) X[k of i]

    X are `slow` variables on a circle, weather on a circle of latitude, and chaotic: with F = 8 the
    distance of two close states doubles in 0.4 units of time. On a grid of `slow` cells there is
    nothing else, and the last term of the first line is left out. On a grid of slow * (1 + J) cells
    each X has J fast variables behind it, in the same channel, and all of these are one circle of
    their own. A coarse solver then misses what the fast variables do to the slow ones: its error,
    which a closure corrects. `zopde correct lorenz96` takes 36 * 11 cells for the reference, and
    its states are the X of these.

    A step is one of the classical Runge-Kutta method, or `speed` shorter ones with fast variables.
    It computes in float64 and answers in the precision of the state.

    Args:
        shape: Cells, (slow,) or (slow * (1 + J),); () is (slow,).
        slow: K, the slow variables, at least 4.
        dt: Time of one step; five days of the atmosphere are one unit.
        force: F.
        drag: d.
        coupling: h, how strongly slow and fast variables act on each other.
        amplitude: b, by which fast variables are smaller.
        speed: c, by which they are faster.
        unknown: "force" or "drag": this number is no option but a forcing channel, one value for
            each slow variable, so that `corrector.inject` "parameter" or "forcing" can learn it.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 1, cell) by dt; no gradient. See `zopde.Solver.step`."""
        with torch.no_grad():
            return self._checked_step(state, forcing)

    def differentiable_twin(self) -> DifferentiableLorenz96:
        """The same step with its autograd graph, for the SOL baseline alone."""
        return DifferentiableLorenz96(self.grid.shape, **self.options)

    def at(self, shape: tuple[int, ...]) -> Lorenz96:
        """The same physics, with as many fast variables as the shape has room for."""
        return Lorenz96(shape, **self.options)

    def downsample(self, fine: State) -> State:
        """The slow variables alone."""
        return fine[..., :: fine.shape[-1] // self._slow]

    def scenario(self, simulations: int, generator: torch.Generator) -> Scenario:
        """Slow variables around F / 4, normal with deviation 1; fast ones start from 0."""
        draw = torch.randn(simulations, self._slow, generator=generator, dtype=torch.float64)
        start = torch.zeros(simulations, *self.grid.state_shape)
        start[:, 0, :: self.grid.shape[0] // self._slow] = (self._known["force"] / 4 + draw).float()
        if not self._unknown:
            return Scenario(start)
        given = torch.full_like(start, self._known[self._unknown])
        return Scenario(start, lambda _: given)


@final
class DifferentiableLorenz96(_Lorenz96):
    """`Lorenz96` with its gradient. A scientist's solver has none: baseline only."""

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 1, cell) by dt, keeping the autograd graph."""
        return self._checked_step(state, forcing)
