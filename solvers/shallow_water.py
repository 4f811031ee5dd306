"""Shallow water with land on a strip of the sphere, on a staggered grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from zopde.contracts import Forcing, Scenario, State
from zopde.errors import InputError
from zopde.grid import Grid, check_forcing, check_state
from zopde.memory import check_fits
from zopde.validate import check_count, check_not_negative, check_positive

_SOUTH, _NORTH = 20.0, 60.0  # degrees; both are walls
_RADIUS, _GRAVITY, _SPIN = 6.371e6, 9.81, 7.292e-5  # of the Earth: m, m/s^2, 1/s
_DEEPEST = 1e5  # m; deeper water is not shallow, and its waves take thousands of substeps
_HILLS, _HEIGHT, _WIDTH = 6, 40.0, 1.2e6  # of a scenario: how many, their heights and widths in m
_FASTER = 1.1  # than a wave of no height: waves and currents for which the substeps are stable
LAND = ((60.0, 100.0, 28.0, 35.0), (36.0, 250.0, 6.0, 12.0))  # a continent in the north, an island


class _Metric(NamedTuple):
    """Rows (y, 1): lengths of the cells, rotation; and (y, x): 1 where there is fluid, else 0."""

    dy: float
    middle: Tensor  # dx through the centres
    upper: Tensor  # dx along the northern faces
    spin: Tensor  # f at the northern faces
    cell: Tensor
    face_u: Tensor  # eastern faces between two cells of fluid
    face_v: Tensor  # northern faces, likewise
    corner: Tensor  # north-eastern corners of four cells of fluid

    def to(self, state: Tensor) -> _Metric:
        return _Metric(self.dy, *(part.to(state) for part in self[1:]))


class _ShallowWater:
    """One step, with or without a gradient."""

    def __init__(
        self,
        shape: tuple[int, ...] = (16, 64),
        dt: float = 1800.0,
        depth: float = 800.0,
        drag: float = 1e-6,
        land: Sequence[Sequence[float]] = LAND,
    ) -> None:
        if len(shape) != 2:
            raise InputError("shape", got=tuple(shape), expected="cells along (lat, lon)")
        for dim, count in zip(("lat", "lon"), shape, strict=True):
            check_count(f"shape along {dim}", count)
        check_fits(f"a state of grid {tuple(shape)}", 3 * math.prod(shape))
        check_positive("depth", depth, _DEEPEST)
        check_not_negative("drag", drag)
        self._depth, self._drag, self._land = float(depth), float(drag), [list(e) for e in land]
        lat, cos, wet = self._places(shape)
        self.grid = Grid(
            tuple(shape),
            (_NORTH - _SOUTH, 360.0),
            float(dt),
            ("eta", "u", "v"),
            dims=("lat", "lon"),
            boundary=("open", "periodic"),
            units={"eta": "m", "u": "m/s", "v": "m/s", "space": "degree", "time": "s"},
            mask=wet,
            weights=cos,
            coordinates={"lat": lat},
        )
        cells = np.ones(shape) if self.grid.fluid is None else self.grid.fluid.double().numpy()
        size = (_NORTH - _SOUTH) / shape[0]
        turn, dy = math.radians(360 / shape[1]), _RADIUS * math.radians(size)
        upper = np.radians(lat + size / 2)[:, None]
        above = np.concatenate([cells[1:], np.zeros_like(cells[:1])])
        face_v = cells * above
        rows = (_RADIUS * turn * cos, _RADIUS * turn * np.cos(upper), 2 * _SPIN * np.sin(upper))
        faces = (cells * np.roll(cells, -1, 1), face_v, face_v * np.roll(face_v, -1, 1))
        self._metric = _Metric(dy, *map(torch.tensor, (*rows, cells, *faces)))
        # Of Runge-Kutta with three stages: up to 1.7.
        fastest = _FASTER * math.sqrt(_GRAVITY * self._depth)
        rate = 2 * fastest * math.hypot(1 / dy, 1 / float(rows[0].min())) / 1.7
        check_positive("substeps that a step takes", max(1.0, self.grid.dt * rate), 10**5)
        self._substeps = math.ceil(self.grid.dt * rate)

    def _places(self, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of so many cells the latitudes, their cosines (lat, 1), and where there is water."""
        lat, lon = _centres(shape)
        return lat, np.cos(np.radians(lat))[:, None], ~_is_land(lat, lon, self._land)

    def _checked_step(self, state: State, forcing: Forcing | None) -> State:
        check_state(self.grid, state)
        check_forcing(self.grid, forcing, len(state))
        metric, h = self._metric.to(state), self.grid.dt / self._substeps
        state = state * torch.stack([metric.cell, metric.face_u, metric.face_v])
        for _ in range(self._substeps):
            moved = state
            for share in (3, 2, 1):
                moved = state + h / share * self._change(moved, metric)
            state = moved
        return state

    def _change(self, state: Tensor, m: _Metric) -> Tensor:
        """Of eta, u and v in a second."""
        eta, u, v = state.unbind(1)
        h = (self._depth + eta) * m.cell
        flux_u = 0.5 * (h + _east(h)) * u * m.face_u
        flux_v = 0.5 * (h + _north(h)) * v * m.face_v * m.upper
        filling = (_south(flux_v) - flux_v) / m.dy + _west(flux_u) - flux_u
        # Potential vorticity at the corners: of fluid without friction at coasts.
        along = u * m.middle
        turning = (_east(v) - v) / m.upper - (_north(along) - along) / (m.upper * m.dy)
        column, around = (a + _east(a) for a in (h * m.middle, m.cell * m.middle))
        column, around = (a + _north(a) for a in (column, around))
        q = (m.spin + turning * m.corner) * around / column.clamp(min=1e-3)
        energy = 0.25 * (u.square() + _west(u).square())
        squares = v.square() * m.upper
        energy = energy + 0.25 * (squares + _south(squares)) / m.middle + _GRAVITY * eta
        to_u = 0.5 * q * (flux_v + _east(flux_v))
        to_v = 0.5 * q * (flux_u + _north(flux_u))
        push_u = (0.5 * (to_u + _south(to_u)) - (_east(energy) - energy)) / m.middle
        push_v = -0.5 * (to_v + _west(to_v)) - (_north(energy) - energy) / m.dy
        push_u, push_v = push_u - self._drag * u, push_v - self._drag * v
        return torch.stack([filling / m.middle, push_u * m.face_u, push_v * m.face_v], dim=1)


def _east(field: Tensor) -> Tensor:
    return field.roll(-1, -1)


def _west(field: Tensor) -> Tensor:
    return field.roll(1, -1)


def _north(field: Tensor) -> Tensor:
    """What lies north of each cell; 0 beyond the wall."""
    return functional.pad(field[..., 1:, :], (0, 0, 0, 1))


def _south(field: Tensor) -> Tensor:
    return functional.pad(field[..., :-1, :], (0, 0, 1, 0))


def _centres(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes in degrees."""
    sizes = (_NORTH - _SOUTH) / shape[0], 360 / shape[1]
    lat, lon = ((np.arange(n) + 0.5) * size for n, size in zip(shape, sizes, strict=True))
    return _SOUTH + lat, lon


def _is_land(
    lat: np.ndarray, lon: np.ndarray, land: Sequence[Sequence[float]]
) -> Bool[np.ndarray, "lat lon"]:
    """Cells with their centre in one of the ellipses."""
    found = np.zeros((len(lat), len(lon)), dtype=bool)
    for place in land:
        if len(place) != 4 or min(place[2:]) <= 0:
            expected = "ellipses (lat, lon, half height, half width) in degrees"
            raise InputError("land", got=list(place), expected=expected)
        y, x, height, width = place
        beside = (lon - x + 180) % 360 - 180
        found |= ((lat - y) / height)[:, None] ** 2 + (beside / width) ** 2 < 1
    return found


@final
class ShallowWater(_ShallowWater):
    """Shallow water on a rotating sphere, 20 to 60 degrees north, with land, as a black box.

        du/dt = (f + zeta) v - dB/dx - r u,   dv/dt = -(f + zeta) u - dB/dy - r v,
        deta/dt = -div((H + eta) (u, v)),   B = g eta + (u^2 + v^2) / 2

    on the Earth's radius, gravity and rotation f = 2 Omega sin(lat). The water goes all round in
    longitude, and there are walls at both latitudes. The state keeps eta at the centre of a cell,
    u at its eastern and v at its northern face (a staggered grid); nothing flows through a face
    at land, where the tangential flow slips. Differences and means are of second order and
    keep mass, and without drag and error in time energy (Sadourny 1975). Cells count
    by cos(lat). On a coarse grid waves are too slow and coasts are steps: what a corrector can
    learn.

    One step: Runge-Kutta substeps of three stages, u + h/3 f, u + h/2 f, u + h f (Wicker and
    Skamarock 2002), as many as waves of 1.1 sqrt(g H) need.

    Args:
        shape: Cells along (lat, lon).
        dt: Time of one step, in s.
        depth: H, in m; > 0, at most 100 km.
        drag: r, in 1/s; >= 0.
        land: Ellipses (lat, lon, half height, half width) in degrees: a cell is land if its centre
            is in one. Those of the default are a continent in the north and an island.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 3, lat, lon) by dt; no gradient. See `zopde.Solver.step`."""
        with torch.no_grad():
            return self._checked_step(state, forcing)

    def differentiable_twin(self) -> DifferentiableShallowWater:
        """The same step with its autograd graph, for the SOL baseline alone."""
        return DifferentiableShallowWater(self.grid.shape, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """The physics, without the resolution."""
        shared = {"dt": self.grid.dt, "depth": self._depth, "drag": self._drag}
        return {**shared, "land": self._land}

    def at(self, shape: tuple[int, ...]) -> ShallowWater:
        """The same physics on another grid."""
        return ShallowWater(shape, **self.options)

    def downsample(self, fine: Float[Tensor, "batch 3 fine_lat fine_lon"]) -> State:
        """Means over the fluid of each cell, and over the fine faces of each coarse face."""
        counts, shape = tuple(fine.shape[2:]), self.grid.shape
        if any(n % c for n, c in zip(counts, shape, strict=True)):
            raise InputError("fine state", got=f"{counts} cells", expected=f"multiples of {shape}")
        by_y, by_x = (n // c for n, c in zip(counts, shape, strict=True))
        _, cos, wet = self._places(counts)
        weights = torch.from_numpy(cos * wet).to(fine)
        water, whole = fine[:, :1] * weights, weights[None, None]
        water, whole = (functional.avg_pool2d(part, (by_y, by_x)) for part in (water, whole))
        eta = water / whole.clamp(min=1e-6)
        u = functional.avg_pool2d(fine[:, 1:2, :, by_x - 1 :: by_x], (by_y, 1))
        v = functional.avg_pool2d(fine[:, 2:, by_y - 1 :: by_y], (1, by_x))
        m = self._metric.to(fine)
        return torch.cat([eta * m.cell, u * m.face_u, v * m.face_v], dim=1)

    def scenario(self, simulations: int, generator: torch.Generator) -> Scenario:
        """Water at rest with round hills and hollows of random height, some tens of metres."""
        draws = torch.randn(simulations, _HILLS, 1, 1, generator=generator, dtype=torch.float64)
        places = torch.rand(2, simulations, _HILLS, 1, 1, generator=generator, dtype=torch.float64)
        lat, lon = (torch.tensor(c).deg2rad() for c in _centres(self.grid.shape))
        at_lat = (_SOUTH + (_NORTH - _SOUTH) * places[0]).deg2rad()
        near = at_lat.sin() * lat.sin()[:, None]
        near = near + at_lat.cos() * lat.cos()[:, None] * (lon - 2 * math.pi * places[1]).cos()
        squares = 2 * (1 - near) * (_RADIUS / _WIDTH) ** 2  # of the chord
        eta = (_HEIGHT * draws * (-squares).exp()).sum(dim=1)
        state = torch.stack([eta, torch.zeros_like(eta), torch.zeros_like(eta)], dim=1)
        return Scenario((state * self._metric.cell).float())


@final
class DifferentiableShallowWater(_ShallowWater):
    """`ShallowWater` with its gradient. A scientist's solver has none: baseline only."""

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, 3, lat, lon) by dt, keeping the autograd graph."""
        return self._checked_step(state, forcing)
