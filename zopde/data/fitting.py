"""A user's dataset against the grid of the solver: dims, times, coordinates, values."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import xarray as xr

from zopde.contracts import Domain
from zopde.data.layout import check_points
from zopde.data.units import METRES, SECONDS, same_unit
from zopde.errors import InputError
from zopde.grid import Grid
from zopde.mesh import AXES, Mesh

log = logging.getLogger(__name__)

_TIMES = ("t", "time", "times")
_CALENDARS = {"standard", "gregorian", "proleptic_gregorian", "julian", "utc", "tai", "none"}
_CALENDARS |= {"noleap", "365_day", "all_leap", "366_day", "360_day"}
# What programs write for a value that is missing, unless they take a huge one.
_MISSING = (99, 999, 999.9, 9999, 9999.9, 99999, 999999, 32767, 32768, 2147483647, 2147483648)


def fitted(dataset: xr.Dataset, grid: Domain) -> xr.Dataset:
    """The dataset in the grid's dims and direction, where it says without doubt what is what.

    Raises:
        InputError: If it does not: a variable, dim, time or cell that is not the grid's, a gap
            between times, values that are not finite, or that stand for nothing.
    """
    names = (*grid.channels, *grid.forcing_channels)
    for name in names:
        if name not in dataset:
            known = ", ".join(map(str, dataset.data_vars)) or "nothing"
            raise InputError("data", got=f"variables {known}", expected=f"a variable {name!r}")
    dataset = _with_dims(dataset, names[0], ("simulation", "time", *grid.dims))
    for name in names:
        _check_shape(dataset[name], grid)
        _check_unit(dataset[name], grid)
    if "time" in dataset.coords and dataset.sizes["time"] > 1:
        _check_times(dataset["time"], grid)
    _check_lengths(dataset, grid)
    if isinstance(grid, Mesh):
        check_points(dataset, grid)
    spacing = grid.spacing if isinstance(grid, Grid) else ()
    for dim, cell in zip(grid.dims, spacing, strict=False):
        if dim in dataset.coords and dataset.sizes[dim] > 1 and _descends(dataset[dim], cell):
            log.warning("data: %s descends in the file; turned round", dim)
            dataset = dataset.isel({dim: slice(None, None, -1)})
    for name in names:
        fluid = _on_fluid(dataset[name], grid)
        _check_marked(fluid)
        _check_values(fluid)
    _warn_of_empty_states(dataset, grid.channels)
    return dataset


def _on_fluid(variable: xr.DataArray, grid: Domain) -> xr.DataArray:
    """A variable with the value of one fluid cell outside of the grid's mask."""
    if grid.fluid is None:
        return variable
    mask, known = xr.DataArray(grid.fluid.numpy(), dims=grid.dims), variable.coords.get("mask")
    if known is not None and known.dtype == bool and not np.array_equal(known, mask):
        raise InputError("data mask", got="another one", expected="the grid's")
    first = dict(zip(grid.dims, map(int, np.argwhere(mask.values)[0]), strict=True))
    found = variable.where(mask, variable.isel(first, drop=True))
    found.encoding = variable.encoding
    return found


def _with_dims(dataset: xr.Dataset, name: str, wanted: tuple[str, ...]) -> xr.Dataset:
    """With another name of time changed, and a simulation of its own where there is but one."""
    dims = [str(dim) for dim in dataset[name].dims]
    others = [dim for dim in dims if dim not in wanted]
    times = [dim for dim in others if dim.lower() in _TIMES]
    try:
        if "time" not in dims and len(times) == 1:
            there = "time" in dataset.variables
            dataset = (dataset.swap_dims if there else dataset.rename)({times[0]: "time"})
            others.remove(times[0])
        if not others and "simulation" not in dims:
            dataset = dataset.expand_dims("simulation")
    except ValueError:
        pass  # two things of one name; what is missing is said next
    return dataset


def _check_shape(variable: xr.DataArray, grid: Domain) -> None:
    wanted, dims = ("simulation", "time", *grid.dims), [str(dim) for dim in variable.dims]
    what = f"data {variable.name!r}"
    if set(dims) != set(wanted):
        others = [dim for dim in dims if dim not in wanted]
        missing = [dim for dim in wanted if dim not in dims]
        if alone := "simulation" in missing and len(missing) > len(others):
            missing.remove("simulation")
        pairs = ", ".join(f'{a}="{b}"' for a, b in zip(others, missing, strict=False))
        remedy = f".rename({pairs})" if pairs else "".join(f".isel({dim}=0)" for dim in others)
        remedy += '.expand_dims("simulation")' * alone
        if "time" in missing and not pairs:
            remedy = "a file of states in the order of their times"
        else:
            remedy = f"such as xarray's {remedy}"
        raise InputError(what, got=f"dims {tuple(dims)}", expected=str(wanted), remedy=remedy)
    if variable.dtype.kind != "f" or variable.dtype.itemsize > 8:
        raise InputError(what, got=f"type {variable.dtype}", expected="real numbers")
    shape = tuple(variable.sizes[dim] for dim in grid.dims)
    if shape != grid.shape:
        raise InputError(what, got=f"{shape} cells", expected=f"{grid.shape}")
    if not variable.size:
        got = f"{variable.sizes['simulation']} simulations of {variable.sizes['time']} times"
        raise InputError(what, got=got, expected="at least one of each")


def _check_unit(variable: xr.DataArray, grid: Domain) -> None:
    """Require the grid's unit of a variable where both name one; "1" is what an absent one is."""
    given, own = str(variable.attrs.get("units", "")).strip(), grid.unit(str(variable.name))
    if given in ("", "1") or own in ("", "1"):
        return
    what, same = f"data {variable.name!r}", same_unit(given, own)
    if same is None:
        log.warning("%s: in %s, the grid's in %s: not compared", what, given, own)
    elif not same:
        remedy = "bring the data, and the grid's units, to one unit"
        raise InputError(
            what, got=f"units {given!r}", expected=f"the grid's {own!r}", remedy=remedy
        )


def _check_times(time: xr.DataArray, grid: Domain) -> None:
    """Every time must follow the one before by dt, as exactly as the numbers can tell."""
    times, blur = _plain_times(time, grid)
    steps, near = np.diff(times), 1e-5 * grid.dt + 4 * blur
    if near > grid.dt / 4:
        got = f"{time.dtype}, which tells no steps of {grid.dt:g} apart"
        raise InputError("data time", got=got, expected="a finer type, such as float64")
    right = np.abs(steps - grid.dt) <= near
    if not right.any():
        raise InputError("data time", got=f"steps of {steps[0]:g}", expected=f"{grid.dt:g}")
    if not right.all():
        first = int(right.argmin())
        got = f"{steps[first]:g} from time {first} to {first + 1}, and {grid.dt:g} elsewhere"
        expected = f"steps of {grid.dt:g} without a gap"
        remedy = "make each whole stretch a simulation of its own"
        raise InputError("data time", got=got, expected=expected, remedy=remedy)


def _plain_times(time: xr.DataArray, grid: Domain) -> tuple[np.ndarray, float]:
    """Times in the unit of the grid's dt, which is a second if it names none; and their blur."""
    values, own = time.values, grid.unit("time").lower()
    unit, since, _ = f"{time.attrs.get('units', own)} ".lower().partition(" since ")
    if values.dtype.kind == "O" and hasattr(values[0], "__sub__"):  # dates of other calendars
        values = (values - values[0]).astype("m8[us]")
    if values.dtype.kind in "mM":
        values, unit = (values - values[0]) / np.timedelta64(1, "s"), "s"
    if values.dtype.kind not in "iuf":
        got = f"type {values.dtype}"
        raise InputError("data time", got=got, expected="numbers or dates, by the rules of CF")
    calendar = str(time.attrs.get("calendar", "standard"))
    if calendar.lower() not in _CALENDARS:
        expected = f"one of CF's: {', '.join(sorted(_CALENDARS))}"
        raise InputError("data time", got=f"calendar {calendar!r}", expected=expected)
    factor, unit = 1.0, unit.strip()
    if since and unit not in SECONDS:
        got = f"units {time.attrs['units']!r}"
        raise InputError("data time", got=got, expected="units of a fixed length, such as seconds")
    if unit != own and unit in SECONDS:
        factor = SECONDS[unit] / SECONDS.get(own, 1.0)
    return values.astype(np.float64) * factor, _blur(values) * factor


def _blur(values: np.ndarray) -> float:
    """How far apart the largest numbers of a type lie."""
    if values.dtype.kind != "f":
        return 0.0
    return float(np.spacing(np.abs(values[np.isfinite(values)]).max(initial=0)))


def _check_lengths(dataset: xr.Dataset, grid: Domain) -> None:
    """Require that coordinates and the grid name one unit of length, as far as they name one."""
    axes = AXES if isinstance(grid, Mesh) else grid.dims
    named = {dim: dataset[dim].attrs.get("units") for dim in axes if dim in dataset.coords}
    units = {dim: str(unit).strip() for dim, unit in named.items() if unit is not None}
    sizes = {METRES[unit] for unit in (*units.values(), grid.unit("space")) if unit in METRES}
    if len(sizes) > 1:
        got = ", ".join(f"{dim} in {unit}" for dim, unit in units.items())
        own = grid.unit("space")
        expected = "one unit of length" + (f", the grid's {own}" if own in METRES else "")
        remedy = "bring the coordinates, and the grid's extent, to one unit"
        raise InputError("data coordinates", got=got, expected=expected, remedy=remedy)


def _descends(places: xr.DataArray, cell: float) -> bool:
    """Whether a coordinate descends; its steps must be the grid's cells, or count them."""
    values, what = places.values, f"data coordinate {places.name!r}"
    if values.dtype.kind not in "iuf":
        raise InputError(what, got=f"type {values.dtype}", expected="numbers")
    steps = np.diff(values.astype(np.float64))
    wanted = 1.0 if values.dtype.kind != "f" and abs(steps[0]) == 1 else cell
    right = np.abs(steps * np.sign(steps[0]) - wanted) <= 1e-3 * wanted + 4 * _blur(values)
    if not right.all():
        first = int(right.argmin())
        got = f"{values[first]:g}, then {values[first + 1]:g}"
        expected = f"steps of {wanted:g}, the grid's cells"
        remedy = f'name the grid\'s extent as the data mean it, or .drop_vars("{places.name}")'
        raise InputError(what, got=got, expected=expected, remedy=remedy)
    return bool(steps[0] < 0)


def _warn_of_empty_states(dataset: xr.Dataset, names: Sequence[str]) -> None:
    """HDF5 reads what was never written as zeros."""
    zero = [(dataset[n].transpose("simulation", "time", ...) == 0).values for n in names]
    empty = np.logical_and.reduce([z.reshape(*z.shape[:2], -1).all(axis=2) for z in zero])
    if empty[:, 1:].any() and not empty.all():
        first = tuple(map(int, np.argwhere(empty[:, 1:])[0] + (0, 1)))
        log.warning(
            "data: %s states are zero in every cell, first simulation %d, time %d: never written?",
            f"{int(empty[:, 1:].sum()):,}",
            *first,
        )


def _check_marked(variable: xr.DataArray) -> None:
    """Require what a file says of its numbers: how they are packed, and where they may lie."""
    values, what = variable.values, f"data {variable.name!r}"
    if {"scale_factor", "add_offset"} & variable.attrs.keys():
        remedy = "unpack them: xarray.decode_cf(dataset)"
        raise InputError(what, got="packed numbers", expected="those of the flow", remedy=remedy)
    if not variable.encoding.get("scale_factor", 1.0):
        raise InputError(what, got="scale_factor 0", expected="one that keeps the numbers apart")
    low, high = _limits(variable, what)
    outside = np.argwhere((values < low) | (values > high))
    if len(outside):
        first = tuple(map(int, outside[0]))
        got = f"{values[first]:g} at {first}, {len(outside):,} values in all"
        expected = f"{low:g} to {high:g}, as valid_range, valid_min or valid_max say"
        remedy = "what lies outside is missing: fill or cut out those cells"
        raise InputError(what, got=got, expected=expected, remedy=remedy)


def _limits(variable: xr.DataArray, what: str) -> np.ndarray:
    """The least and the largest number that a file calls valid, in the type of its numbers.

    Whole limits of packed numbers are packed, too; half a step wider, what unpacking rounds.
    """
    marks, packing = variable.attrs, variable.encoding
    single = marks.get("valid_min", -np.inf), marks.get("valid_max", np.inf)
    given = marks.get("valid_range", single)
    try:
        low, high = (np.asarray(end) for end in given)
        ends = np.array([float(low.item()), float(high.item())])
        if np.isnan(ends).any():
            raise ValueError
    except (TypeError, ValueError):
        expected = "a least and a largest number: valid_range, or valid_min and valid_max"
        raise InputError(what, got=f"limits {given!r}", expected=expected) from None
    packed = {"scale_factor", "add_offset"} & packing.keys()
    if packed and (low.dtype.kind in "iu" or high.dtype.kind in "iu"):
        scale, offset = packing.get("scale_factor", 1.0), packing.get("add_offset", 0.0)
        ends = np.sort(ends * scale + offset) + np.array([-0.5, 0.5]) * abs(scale)
    return ends.astype(variable.dtype)


def _check_values(variable: xr.DataArray) -> None:
    values, what = variable.values, f"data {variable.name!r}"
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        got = f"NaN or infinity, first at {tuple(map(int, bad[0]))}, {len(bad):,} values in all"
        remedy = "a _FillValue is read as NaN: fill or cut out those cells, or leave them out by "
        remedy += "the mask of the grid"
        raise InputError(what, got=got, expected="finite values", remedy=remedy)
    for value in (float(values.max()), float(values.min())):
        if abs(value) < 1e10 and not np.isclose(-value, _MISSING, rtol=1e-6).any():
            continue
        others = values[values != value]
        low, high = (float(others.min()), float(others.max())) if others.size else (0.0, 0.0)
        # A huge one must be far larger than all others, another far below all that they span.
        alone = abs(high if value > high else low) < 1e-4 * abs(value)
        if alone if abs(value) >= 1e10 else low - value > 3 * (high - low):
            got = f"{value:g} in {values.size - others.size:,} places, "
            got += f"else {low:g} to {high:g}" if others.size else "and nothing else"
            remedy = "a fill value without _FillValue? fill or cut out those cells"
            raise InputError(what, got=got, expected="values of the flow", remedy=remedy)
