"""The coarse grid on which a state lives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zopde.errors import InputError
from zopde.memory import check_fits
from zopde.validate import check_choice, check_count, check_positive, check_type

if TYPE_CHECKING:
    from zopde.contracts import Domain

__all__ = ["Grid", "check_forcing", "check_state"]

_BOUNDARIES = ("periodic", "open")
_DIMS = ("z", "y", "x")
Boundary = str | tuple[str, ...]
Cells = tuple[Any, ...] | None  # a value of every cell, as nested tuples; None: all are alike


@dataclass(frozen=True)
class Grid:
    """A uniform grid of cells, what its channels mean, and the time one step covers.

    Cells outside of `mask`, such as land in an ocean, have no values: NaN is welcome there, in data
    and in a solver's answer. zopde puts 0 in its place, before solver and network see it, and
    leaves these cells out of scales, losses, errors and probes.

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

    Raises:
        InputError: If a length, a count or `dt` is not positive, the lengths of `shape`,
            `extent` and `dims` differ, a name is empty or there twice, a state does not fit
            into the memory, `mask` or `weights` have another shape, no cell is fluid, or a weight
            of a fluid cell is not positive.
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
            check_positive(f"grid extent along {dim}", length)
        self._check_boundary()
        check_fits(f"a state of grid {self.shape}", math.prod(self.state_shape))
        self._check_cells()

    def _check_cells(self) -> None:
        """Require a mask and weights of the grid's shape, and keep both as nested tuples."""
        for name in ("mask", "weights"):  # their names in a data file
            if getattr(self, name) is not None and name in self.channels + self.forcing_channels:
                raise InputError("grid", got=f"a channel {name!r}", expected="another name for it")
        mask = None if self.mask is None else _array("mask", self.mask, self.shape)
        if mask is not None and not (np.isin(mask, (0, 1)).all() and mask.any()):
            expected = "True where there is fluid and False elsewhere, one True at least"
            raise InputError("grid mask", got="other values, or no fluid", expected=expected)
        if mask is not None:
            kept = None if mask.all() else nested(mask.astype(bool).tolist())
            object.__setattr__(self, "mask", kept)
        if self.weights is None:
            return
        weights = _array("weights", self.weights, self.shape)
        weights = weights if mask is None else np.where(mask, weights, 0.0)
        fluid = weights if mask is None else weights[mask.astype(bool)]
        if not (np.isfinite(fluid).all() and (fluid > 0).all()):
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
        """Cell size along each dimension: extent / shape."""
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
        """Cell-centre coordinates (i + 1/2) * spacing along dimension `axis`."""
        return [(i + 0.5) * self.spacing[axis] for i in range(self.shape[axis])]

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

    def fluid_values(self, values: Tensor) -> Float[Tensor, "... cells"]:
        """(..., *space) -> (..., cells): the values of the cells with fluid alone."""
        flat = values.flatten(-len(self.shape))
        return flat if self.fluid is None else flat[..., self.fluid.flatten().to(values.device)]

    def with_shape(self, shape: tuple[int, ...]) -> Grid:
        """The same domain cut into `shape` cells.

        A coarser cell is fluid if at least half of it is; its weight is that of the fluid in it.

        Raises:
            InputError: If there is a mask, or weights, and a count is no multiple or divisor.
        """
        shape, fluid, weights = tuple(shape), self.fluid, self.weights
        cells: dict[str, Any] = {}
        if fluid is not None:
            cells["mask"] = _resized(fluid.double(), shape) >= 0.5
        if weights is not None:
            cells["weights"] = _resized(torch.tensor(weights).double(), shape)
        return replace(self, shape=shape, **cells)


def check_names(what: str, names: Sequence[str], needed: bool) -> tuple[str, ...]:
    """Require names, each once, and at least one where they are needed; they as a tuple."""
    check_type(what, names, tuple[str, ...])
    if "" in names or len(set(names)) < len(names) or (needed and not names):
        expected = f"names, each once{', at least one' if needed else ''}"
        raise InputError(what, got=tuple(names), expected=expected)
    return tuple(names)


def _array(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:  # noqa: ANN401
    """Numbers of every cell; weights may broadcast, a mask is whole."""
    got = "no array"
    try:
        array = np.asarray(values, dtype=float)
        got = f"shape {array.shape}"
        array = np.broadcast_to(array, shape) if name == "weights" else array
    except (ValueError, TypeError, RuntimeError):
        array = np.empty(0)
    if array.shape != shape:
        raise InputError(f"grid {name}", got=got, expected=f"the grid's {shape}")
    return array


def nested(values: Any) -> Any:  # noqa: ANN401 - lists of lists, down to a number
    """The same as tuples, which can be compared and be a key."""
    return tuple(map(nested, values)) if isinstance(values, list) else values


def _resized(field: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A field on cells that are cut, or joined to their mean."""
    for axis, (old, new) in enumerate(zip(field.shape, shape, strict=True)):
        if old % new and new % old:
            got, expected = f"{old} cells cut into {new}", "a multiple or a divisor"
            raise InputError("grid with a mask or weights", got=got, expected=expected)
        if new < old:
            field = field.unflatten(axis, (new, old // new)).mean(dim=axis + 1)
        else:
            field = field.repeat_interleave(new // old, dim=axis)
    return field


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
