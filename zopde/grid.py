"""The coarse grid on which a state lives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zopde.cells import array_of, in_order, nearest, nested, recut, resized
from zopde.domain import Domain, check_channels, check_names
from zopde.errors import InputError
from zopde.memory import check_fits
from zopde.validate import check_choice, check_count, check_positive, check_type

__all__ = ["Grid", "check_forcing", "check_state"]

_BOUNDARIES = ("periodic", "open")
_DIMS = ("z", "y", "x")
_FILLS = ("zero", "nearest")
SMALLEST = 1e-100  # weight: the mean of smaller ones, or of their inverses, is no number
_ALIKE = 1e-3  # by how much the cells of a uniform axis may differ, as files round them
Boundary = str | tuple[str, ...]
Cells = Any  # a value of every cell: an array, or nested lists or tuples; None: all are alike


@dataclass(frozen=True)
class Grid:
    """A grid of cells, what its channels mean, and the time one step covers.

    Cells outside of `mask`, such as land in an ocean, have no values: NaN is welcome there, in data
    and in a solver's answer. zopde puts 0, or what `fill` says, in its place, before a solver or a
    network sees it, and leaves these cells out of scales, losses, errors and probes.

    Args:
        shape: Number of cells along each space dimension.
        extent: Physical length of each space dimension, in `units["space"]`.
        dt: Time that one solver step covers, in `units["time"]`; > 0.
        channels: Name of every state channel, in the order of the channel axis.
        forcing_channels: Name of every forcing channel; empty for a solver without forcing.
        dims: Name of every space dimension, slowest first; (): the last of z, y, x.
        boundary: "periodic", or "open" for everything else; one word, or one for each dimension.
            Correctors pad accordingly.
        units: Unit by name of channel, forcing channel, "space" and "time"; "1" if absent.
        mask: Where there is fluid: True there, False on land, as in xarray's `where`. An array of
            `shape`, or nested lists; kept as nested tuples. None: everywhere.
        weights: By how much each cell counts in losses and errors, such as its area: only ratios
            matter. An array that broadcasts to `shape`, such as cos(latitude)[:, None]; kept as
            nested tuples, 0 outside of the mask. None: all cells alike.
        coordinates: Where the cells of a dimension have their centres, by its name, ascending or
            descending, in `units["space"]`; for cells of different sizes, or an axis that does
            not start at 0, such as latitudes. The first and the last cell take what is left of
            the extent. Without: uniform cells from 0 on. `weights` do not follow from it.
        fill: What cells outside of the mask hold for solver and network: "zero", or "nearest",
            the value of the nearest fluid cell (counted in cells).

    Raises:
        InputError: If a length, a count or `dt` is not positive, the lengths of `shape`,
            `extent` and `dims` differ, a name is empty or there twice, a state does not fit
            into the memory, `mask` or `weights` have another shape, no cell is fluid, a weight
            of a fluid cell is not positive, or coordinates are not monotone, of another number
            than the cells, or do not fill the extent.
    """

    shape: tuple[int, ...]
    extent: tuple[float, ...]
    dt: float
    channels: tuple[str, ...]
    forcing_channels: tuple[str, ...] = ()
    dims: tuple[str, ...] = ()
    boundary: Boundary = "periodic"
    units: Mapping[str, str] = field(default_factory=dict)
    mask: Cells = field(default=None, repr=False)
    weights: Cells = field(default=None, repr=False)
    coordinates: Mapping[str, Any] = field(default_factory=dict, repr=False)
    fill: str = field(default="zero", repr=False)

    def __post_init__(self) -> None:
        hints = get_type_hints(Grid)
        for name in ("shape", "extent", "channels", "forcing_channels", "dims", "units"):
            check_type(f"grid {name}", getattr(self, name), hints[name])
        # A list is as good; and as a tuple it is part of what can be compared and be a key.
        for name in ("shape", "extent", "dims"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.dims and 1 <= len(self.shape) <= len(_DIMS):
            object.__setattr__(self, "dims", _DIMS[-len(self.shape) :])
        for name in ("channels", "forcing_channels", "dims"):
            needed = name != "forcing_channels"
            kept = check_names(f"grid {name}", getattr(self, name), needed)
            object.__setattr__(self, name, kept)
        check_channels("grid", self, (*self.dims, "mask", "weights"))
        for name in self.units:
            known = (*self.channels, *self.forcing_channels, "space", "time")
            check_choice("grid unit of", name, known)
        if not len(self.shape) == len(self.extent) == len(self.dims):
            got = f"shape {self.shape}, extent {self.extent}, dims {self.dims}"
            expected = "one cell count and one length per dimension"
            raise InputError("grid", got=got, expected=expected)
        check_positive("grid dt", self.dt)
        for dim, cells, length in zip(self.dims, self.shape, self.extent, strict=True):
            check_count(f"grid cells along {dim}", cells)
            check_positive(f"grid extent along {dim}", length, 1 / SMALLEST)
            check_positive(f"grid cells per length along {dim}", cells / length, 1 / SMALLEST)
        self._check_boundary()
        check_fits(f"a state of grid {self.shape}", math.prod(self.state_shape))
        self._check_cells()
        check_choice("grid fill", self.fill, _FILLS)
        self._check_coordinates()

    def _check_coordinates(self) -> None:
        """Require centres that fill the extent, and keep them as tuples."""
        kept = {}
        check_type("grid coordinates", self.coordinates, Mapping)
        for dim, values in self.coordinates.items():
            check_choice("grid coordinates of", dim, self.dims)
            axis = self.dims.index(dim)
            what, extent = f"coordinates {dim}", self.extent[axis]
            places, what = array_of(what, values, (self.shape[axis],)), f"grid {what}"
            steps = np.diff(places)
            if not (np.isfinite(places).all() and (abs(np.sign(steps).sum()) == len(steps))):
                raise InputError(what, got="another order", expected="ascending, or descending")
            rest = extent - abs(places[-1] - places[0])
            most = abs(steps[[0, -1]]).sum() if len(steps) else math.inf
            if not 0 < rest < (1 + _ALIKE) * most:
                got = f"{places[0]:g} to {places[-1]:g}"
                expected = f"centres of cells that fill the extent {extent:g}"
                raise InputError(what, got=got, expected=expected)
            kept[dim] = tuple(places.tolist())
        object.__setattr__(self, "coordinates", kept)

    def _check_cells(self) -> None:
        """Require a mask and weights of the grid's shape, and keep both as nested tuples."""
        given = in_order(self.mask, self.dims)
        mask = None if given is None else array_of("mask", given, self.shape)
        if mask is not None and not (np.isin(mask, (0, 1)).all() and mask.any()):
            expected = "True where there is fluid and False elsewhere, one True at least"
            raise InputError("grid mask", got="other values, or no fluid", expected=expected)
        if mask is not None:
            kept = None if mask.all() else nested(mask.astype(bool).tolist())
            object.__setattr__(self, "mask", kept)
        if self.weights is None:
            return
        weights = array_of("weights", in_order(self.weights, self.dims), self.shape)
        weights = weights if mask is None else np.where(mask, weights, 0.0)
        fluid = weights if mask is None else weights[mask.astype(bool)]
        if not ((fluid > SMALLEST) & (fluid < 1 / SMALLEST)).all():
            got = f"{fluid.min():g} to {fluid.max():g}"
            raise InputError("grid weights", got=got, expected="finite numbers > 0 in the fluid")
        object.__setattr__(self, "weights", nested(weights.tolist()))

    def _check_boundary(self) -> None:
        """Require known words; of equal ones, one is kept."""
        words = [self.boundary] if isinstance(self.boundary, str) else self.boundary
        if not isinstance(words, list | tuple) or len(words) not in (1, len(self.dims)):
            expected = f"one word, or {len(self.dims)}, of {list(_BOUNDARIES)}"
            raise InputError("grid boundary", got=repr(self.boundary), expected=expected)
        for word in words:
            check_choice("grid boundary", word, _BOUNDARIES)
        same = len(set(words)) == 1
        object.__setattr__(self, "boundary", words[0] if same else tuple(words))

    def __getstate__(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Whether each dimension is periodic."""
        words = self.boundary
        each = (words,) * len(self.dims) if isinstance(words, str) else words
        return tuple(word == "periodic" for word in each)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Cell size along each dimension: extent / shape.

        Raises:
            InputError: If the cells of one differ in size; `edges` has them.
        """
        for axis, dim in enumerate(self.dims):
            if not self.is_uniform(axis):
                got, expected = f"cells of different sizes along {dim}", "cells of one size"
                remedy = f"numpy.diff(grid.edges({axis})) has the size of each"
                raise InputError("grid spacing", got=got, expected=expected, remedy=remedy)
        return tuple(ln / n for ln, n in zip(self.extent, self.shape, strict=True))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state without its batch axis: (channel, *space)."""
        return (len(self.channels), *self.shape)

    @property
    def forcing_shape(self) -> tuple[int, ...]:
        """Shape of one forcing without its batch axis: (forcing_channel, *space)."""
        return (len(self.forcing_channels), *self.shape)

    def centres(self, axis: int) -> list[float]:
        """Cell-centre coordinates along dimension `axis`: given, or (i + 1/2) * spacing."""
        if self.dims[axis] in self.coordinates:
            return list(self.coordinates[self.dims[axis]])
        size = self.extent[axis] / self.shape[axis]
        return [(i + 0.5) * size for i in range(self.shape[axis])]

    def edges(self, axis: int) -> list[float]:
        """Where the cells of dimension `axis` end: half-way between centres, one more than cells.

        What the centres leave of the extent is beyond the first and the last, in proportion to
        the distance to the next centre.
        """
        n, extent = self.shape[axis], self.extent[axis]
        if self.dims[axis] not in self.coordinates:
            return [i * extent / n for i in range(n + 1)]
        places = np.array(self.centres(axis))
        steps = np.diff(places) if n > 1 else np.array([extent])
        rest = math.copysign(extent, steps[0]) - (places[-1] - places[0])
        first = places[0] - rest * steps[0] / (steps[0] + steps[-1])
        inner = (places[1:] + places[:-1]) / 2
        return [float(first), *inner.tolist(), float(first + math.copysign(extent, steps[0]))]

    def is_uniform(self, axis: int) -> bool:
        """Whether the cells along dimension `axis` have one size."""
        if self.dims[axis] not in self.coordinates:
            return True
        return bool(
            np.ptp(np.diff(self.edges(axis))) <= _ALIKE * self.extent[axis] / self.shape[axis]
        )

    @property
    def places(self) -> Float[Tensor, "axis ..."]:
        """Where each cell's centre lies, from 0 to 1 along each axis of the domain."""
        axes = [(torch.arange(n) + 0.5) / n for n in self.shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def unit(self, name: str) -> str:
        """Unit of a channel, of "space" or of "time"; "1" where none was declared."""
        return self.units.get(name, "1")

    @cached_property
    def fluid(self) -> Bool[Tensor, "*space"] | None:
        """The mask as a tensor; None where every cell is fluid."""
        return None if self.mask is None else torch.tensor(self.mask)

    @property
    def fluid_cells(self) -> int:
        """Number of cells with fluid."""
        return math.prod(self.shape) if self.fluid is None else int(self.fluid.sum())

    @cached_property
    def cell_weights(self) -> Float[Tensor, "*space"] | None:
        """What values of each cell are multiplied by before a mean over all cells.

        In float64, of mean 1, and 0 outside of the mask. None where all count alike.
        """
        cells = self.fluid if self.weights is None else torch.tensor(self.weights)
        return None if cells is None else cells.double() / cells.double().mean()

    def filled(self, values: Tensor) -> Tensor:
        """Values (..., *space) with 0 outside of the mask; themselves where there is none."""
        if self.fluid is None:
            return values
        return torch.where(self.fluid.to(values.device), values, 0.0)

    @cached_property
    def nearest(self) -> Int[Tensor, " cells"] | None:
        """The number of the fluid cell whose value each cell shows; None where none does."""
        if self.mask is None or self.fill == "zero":
            return None
        return torch.from_numpy(nearest(np.array(self.mask), self.periodic))

    def spread(self, values: Tensor) -> Tensor:
        """Values (..., *space) as a solver and a network see them: filled as `fill` says."""
        if self.nearest is None:
            return self.filled(values)
        flat = values.flatten(-len(self.shape))
        return flat.index_select(-1, self.nearest.to(values.device)).view(values.shape)

    def fluid_values(self, values: Tensor) -> Float[Tensor, "... cells"]:
        """(..., *space) -> (..., cells): the values of the cells with fluid alone."""
        flat = values.flatten(-len(self.shape))
        return flat if self.fluid is None else flat[..., self.fluid.flatten().to(values.device)]

    def with_shape(self, shape: tuple[int, ...]) -> Grid:
        """The same domain cut into `shape` cells.

        A coarser cell is fluid if at least half of it is; its weight is that of the fluid in it.

        Raises:
            InputError: If there is a mask, or weights, and a count is no multiple or divisor; or if
                no centres of so few cells, of sizes that differ much, have the domain's ends.
        """
        shape, fluid, weights = tuple(shape), self.fluid, self.weights
        cells: dict[str, Any] = {}
        if fluid is not None:
            cells["mask"] = resized(fluid.double(), shape) >= 0.5
        if weights is not None:
            cells["weights"] = resized(torch.tensor(weights).double(), shape)
        if len(shape) == len(self.shape):
            cells["coordinates"] = {
                dim: recut(self.edges(axis), shape[axis])
                for axis, dim in enumerate(self.dims)
                if dim in self.coordinates
            }
        other = replace(self, shape=shape, **cells)
        for axis, dim in enumerate(self.dims):
            off = np.subtract(
                self.edges(axis)[:: self.shape[axis]], other.edges(axis)[:: shape[axis]]
            )
            if abs(off).max() > _ALIKE * self.extent[axis]:
                got = f"{shape[axis]} cells along {dim}, which end {abs(off).max():.3g} elsewhere"
                raise InputError("grid", got=got, expected="a count that keeps the ends")
        return other


def as_grid(grid: Grid | Mapping[str, Any], home: Path | str = "") -> Grid:
    """A grid from the table of a settings file, lists where it has tuples; a `Grid` stays.

    Mask and weights may also be the name of a NetCDF file, relative to `home`, with a variable of
    that name.
    """
    if isinstance(grid, Grid):
        return grid
    check_type("grid", grid, Mapping[str, Any])
    for key in grid:
        check_choice("grid key", key, [field.name for field in fields(Grid)])
    for name in ("shape", "extent", "dt", "channels"):
        if name not in grid:
            raise InputError("grid", got=f"no {name!r}", expected="shape, extent, dt and channels")
    files = {n: grid[n] for n in ("mask", "weights") if isinstance(grid.get(n), str)}
    return Grid(**{**grid, **{n: _variable(Path(home, file), n) for n, file in files.items()}})


def _variable(file: Path, name: str) -> np.ndarray:
    from zopde.netcdf import read_netcdf  # xarray takes long to import

    dataset = read_netcdf(file)
    if name not in dataset.variables:
        raise InputError(f"grid {name}", got=f"{file} without it", expected=f"a variable {name!r}")
    values: np.ndarray = dataset[name].values
    return values


def check_state(grid: Domain, state: Tensor) -> None:
    """Check that a state is a floating-point tensor (batch, *grid.state_shape).

    Args:
        grid: The solver's.
        state: What its `step` was given.

    Raises:
        InputError: If it is not.
    """
    _check_field("state", state, grid.state_shape)


def check_forcing(grid: Domain, forcing: Tensor | None, batch: int) -> None:
    """Check that a forcing is (batch, *grid.forcing_shape), or None where the grid has none.

    Args:
        grid: The solver's.
        forcing: What its `step` was given.
        batch: How many states it was given.

    Raises:
        InputError: If it is not.
    """
    if not grid.forcing_channels:
        if forcing is not None:
            raise InputError("forcing", got="a tensor", expected="None: this solver takes none")
        return
    if forcing is None:
        names = ", ".join(grid.forcing_channels)
        raise InputError("forcing", got="None", expected=f"channels {names} for every state")
    _check_field("forcing", forcing, grid.forcing_shape)
    if len(forcing) != batch:
        raise InputError("forcing", got=f"batch {len(forcing)}", expected=f"batch {batch}")


def _check_field(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor) or not torch.is_floating_point(value):
        raise InputError(name, got=type(value).__name__, expected="a floating-point torch.Tensor")
    if tuple(value.shape[1:]) != shape:
        expected = f"({', '.join(map(str, ('batch', *shape)))})"
        raise InputError(name, got=f"shape {tuple(value.shape)}", expected=expected)
