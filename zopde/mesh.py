"""The points of an unstructured mesh on which a state lives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from zopde.cells import nested
from zopde.domain import check_channels, check_names
from zopde.errors import InputError
from zopde.grid import SMALLEST, Cells
from zopde.memory import check_fits
from zopde.validate import check_choice, check_positive

__all__ = ["Mesh"]

AXES = ("x", "y", "z")
_NEAREST = (2, 6, 12)  # neighbours of a point where nobody names any, by the number of axes
_UNITS = ("space", "time")
_FLAT = 1e-7  # of its longest side squared, or cubed: what is no area, or no volume
_ONE = 1e-10  # of the size of a mesh: two points that are so near are one


@dataclass(frozen=True)
class Mesh:
    """An unstructured mesh: its points, what its channels mean, and the time one step covers.

    A state has one value for each point and channel: (batch, channel, point). So nodes of finite
    elements are points, and so are the centres of finite volumes. What depends on what is told by
    `neighbours`. Where a `Grid` stands, a mesh may stand, too.

    Args:
        points: (point, axis), the coordinates, along one to three axes; kept as nested tuples.
        dt: Time that one solver step covers, in `units["time"]`; > 0.
        channels: Name of every state channel, in the order of the channel axis.
        forcing_channels: Name of every forcing channel; empty for a solver without forcing.
        cells: (cell, corner), the numbers of the points of each triangle or tetrahedron. None:
            there are points alone.
        neighbours: (pair, 2), the numbers of points that are next to each other. None: the edges
            of the cells; without cells the 2, 6 or 12 nearest points, on one to three axes.
        weights: (point,), by how much each point counts in losses and errors: only ratios matter.
            None: its share of the area or volume of the cells around it (the lumped mass); without
            cells all count alike.
        units: Unit by name of channel, forcing channel, "space" and "time"; "1" if absent.

    Raises:
        InputError: If there are fewer than two points, two at one place, or one without a
            neighbour; if a number names no point, a cell has no area, a weight is not positive or
            there are not as many as points; if `dt` is not positive, or a name is empty or there
            twice.
    """

    points: Any = field(repr=False)
    dt: float
    channels: tuple[str, ...]
    forcing_channels: tuple[str, ...] = field(default=(), kw_only=True)
    cells: Cells = field(default=None, repr=False, kw_only=True)
    neighbours: Cells = field(default=None, repr=False, kw_only=True)
    weights: Cells = field(default=None, repr=False, kw_only=True)
    units: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        check_positive("mesh dt", self.dt)
        for name in ("channels", "forcing_channels"):
            names = check_names(f"mesh {name}", getattr(self, name), name == "channels")
            object.__setattr__(self, name, names)
        check_channels("mesh", self, ("point", *AXES, "cells", "neighbours", "weights"))
        for name in self.units:
            check_choice("mesh unit of", name, (*self.channels, *self.forcing_channels, *_UNITS))
        points = _points(self.points)
        cells = None if self.cells is None else _cells(self.cells, points)
        weights: object = self.weights
        if weights is None and cells is not None:
            weights = _mass(cells, points)
        pairs = _pairs(self.neighbours, cells, points)
        kept = (points, cells, pairs, None if weights is None else _weights(weights, len(points)))
        for name, array in zip(("points", "cells", "neighbours", "weights"), kept, strict=True):
            object.__setattr__(self, name, None if array is None else nested(array.tolist()))
        check_fits(f"a state of {len(points)} points", math.prod(self.state_shape))

    def __getstate__(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(number of points,)."""
        return (len(self.points),)

    dims = ("point",)
    periodic = (False,)
    fluid = None  # every point has a value

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state without its batch axis: (channel, point)."""
        return (len(self.channels), *self.shape)

    @property
    def forcing_shape(self) -> tuple[int, ...]:
        """Shape of one forcing without its batch axis: (forcing_channel, point)."""
        return (len(self.forcing_channels), *self.shape)

    def unit(self, name: str) -> str:
        """Unit of a channel, of "space" or of "time"; "1" where none was declared."""
        return self.units.get(name, "1")

    @cached_property
    def positions(self) -> Float[Tensor, "point axis"]:
        """The coordinates as a tensor, in float64."""
        return torch.tensor(self.points, dtype=torch.float64)

    @property
    def places(self) -> Float[Tensor, "axis point"]:
        """Where each point lies between the ends of the mesh, from 0 to 1 along each axis."""
        least = self.positions.amin(dim=0)
        return ((self.positions - least) / (self.positions.amax(dim=0) - least).clamp_min(1e-300)).T

    @cached_property
    def edges(self) -> Int[Tensor, "edge 2"]:
        """(from, to) of every two neighbours, in both directions."""
        pairs = torch.tensor(self.neighbours)
        return torch.cat([pairs, pairs.flip(1)])

    @property
    def fluid_cells(self) -> int:
        """Number of points."""
        return self.shape[0]

    @cached_property
    def cell_weights(self) -> Float[Tensor, " point"] | None:
        """What values of each point are multiplied by before a mean, of mean 1; None: all alike."""
        if self.weights is None:
            return None
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return weights / weights.mean()

    @property
    def nearest(self) -> None:
        """None: each point shows its own value."""

    def filled(self, values: Tensor) -> Tensor:
        """Values (..., point) as they are: every point has one."""
        return values

    def spread(self, values: Tensor) -> Tensor:
        """Likewise."""
        return values

    def fluid_values(self, values: Tensor) -> Float[Tensor, "... point"]:
        """Likewise."""
        return values


def _array(name: str, values: object, kinds: str, width: str) -> np.ndarray:
    """Numbers with two axes; no list of lists of other numbers."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):
        array = np.empty(0, dtype=object)
    if array.ndim != 2 or array.dtype.kind not in kinds or not len(array):
        got = f"shape {array.shape} of {array.dtype}"
        raise InputError(f"mesh {name}", got=got, expected=f"an array ({name}, {width}) of numbers")
    return array


def _points(values: object) -> np.ndarray:
    points = _array("points", values, "iuf", "1 to 3 axes").astype(np.float64)
    if len(points) < 2 or not 1 <= points.shape[1] <= len(AXES) or not np.isfinite(points).all():
        got = f"{len(points)} points on {points.shape[1]} axes"
        got += "" if np.isfinite(points).all() else ", some not finite"
        expected = "at least 2 points, 1 to 3 finite numbers each"
        raise InputError("mesh points", got=got, expected=expected)
    twins = cKDTree(points).query_pairs(_ONE * np.ptp(points, axis=0).max())
    if twins:
        got, expected = "{} and {} at one place".format(*min(twins)), "points at different places"
        remedy = "join them: cells may share a corner"
        raise InputError("mesh points", got=got, expected=expected, remedy=remedy)
    return points


def _numbers(name: str, values: object, corners: tuple[int, ...], count: int) -> np.ndarray:
    """Rows of numbers of points, each number once in a row."""
    width = " or ".join(map(str, corners))
    numbers = _array(name, values, "iu", width)
    if numbers.shape[1] not in corners:
        raise InputError(f"mesh {name}", got=f"rows of {numbers.shape[1]}", expected=f"of {width}")
    wrong = (numbers < 0) | (numbers >= count)
    twice = (np.diff(np.sort(numbers, axis=1), axis=1) == 0).any(axis=1)
    for bad in (wrong.any(axis=1), twice):
        if bad.any():
            first = int(bad.argmax())
            got = f"row {first}: {numbers[first].tolist()}"
            expected = f"different numbers of points, 0 to {count - 1}"
            raise InputError(f"mesh {name}", got=got, expected=expected)
    return numbers.astype(np.int64)


def _cells(values: object, points: np.ndarray) -> np.ndarray:
    corners = (3,) if points.shape[1] < 3 else (3, 4)
    cells = _numbers("cells", values, corners, len(points))
    rows, times = np.unique(np.sort(cells, axis=1), axis=0, return_counts=True)
    if len(rows) < len(cells):
        got = f"cell {rows[times.argmax()].tolist()} {times.max()} times"
        raise InputError("mesh cells", got=got, expected="each cell once")
    longest = np.ptp(points[cells], axis=1).max(axis=1)
    flat = _sizes(cells, points) <= _FLAT * longest ** (cells.shape[1] - 1)
    if flat.any():
        first = int(flat.argmax())
        got = f"cell {first}, {cells[first].tolist()}, whose corners lie on a line or a plane"
        raise InputError("mesh cells", got=got, expected="cells with an area or a volume")
    return cells


def _sizes(cells: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Area or volume of each cell: of sides E it is sqrt(det(E E^T)) / (number of sides)!."""
    sides = points[cells[:, 1:]] - points[cells[:, :1]]
    gram = np.linalg.det(sides @ sides.transpose(0, 2, 1))
    sizes: np.ndarray = np.sqrt(np.maximum(gram, 0)) / math.factorial(sides.shape[1])
    return sizes


def _mass(cells: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Each corner's equal share of its cells."""
    share = np.repeat(_sizes(cells, points) / cells.shape[1], cells.shape[1])
    return np.bincount(cells.ravel(), share, minlength=len(points))


def _pairs(neighbours: object, cells: np.ndarray | None, points: np.ndarray) -> np.ndarray:
    """Each pair of neighbours once, the lesser number first; every point in one of them."""
    source, remedy = "neighbours", "name its neighbours, or leave it out"
    if neighbours is not None:
        pairs = _numbers("neighbours", neighbours, (2,), len(points))
    elif cells is not None:
        source, remedy = "cells", "leave it out of the points"
        ends = np.triu_indices(cells.shape[1], 1)
        pairs = np.stack([cells[:, end].ravel() for end in ends], axis=1)
    else:
        count = min(_NEAREST[points.shape[1] - 1], len(points) - 1)
        near = cKDTree(points).query(points, k=count + 1)[1][:, 1:]
        pairs = np.stack([np.repeat(np.arange(len(points)), count), near.ravel()], axis=1)
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    lone = np.setdiff1d(np.arange(len(points)), pairs)
    if len(lone):
        got = f"point {lone[0]} in none of them, {len(lone):,} such points in all"
        raise InputError(f"mesh {source}", got=got, expected="every point in one", remedy=remedy)
    return pairs


def _weights(values: object, count: int) -> np.ndarray:
    try:
        weights = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError, RuntimeError):
        weights = np.empty(0)
    if weights.shape != (count,) or not ((weights > SMALLEST) & (weights < 1 / SMALLEST)).all():
        got = f"shape {weights.shape}" + ", not all positive" * (weights.shape == (count,))
        expected = f"({count},), finite numbers > 0, one for each point"
        raise InputError("mesh weights", got=got, expected=expected)
    return weights
