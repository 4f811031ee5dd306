"""A user's dataset against the grid of the solver: dims, times, coordinates, values."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import xarray as xr

from zopde.contracts import Domain
from zopde.data.clock import with_clock
from zopde.data.layout import check_points
from zopde.data.times import blur_of, check_times
from zopde.data.units import METRES, is_share, same_unit
from zopde.errors import InputError
from zopde.grid import Grid
from zopde.mesh import AXES, Mesh
from zopde.validate import nearest

log = logging.getLogger(__name__)

_TIMES = ("t", "time", "times")
# What programs write for a value that is missing, unless they take a huge one.
_MISSING = (99, 999, 999.9, 9999, 9999.9, 99999, 999999, 32767, 32768, 2147483647, 2147483648)


def fitted(dataset: xr.Dataset, grid: Domain, partial: bool = False) -> xr.Dataset:
    """The dataset in the grid's dims and direction, where it says without doubt what is what.

    With `partial`, states may be NaN where nothing was measured; a forcing never.

    Raises:
        InputError: If it does not: a variable, dim, time or cell that is not the grid's, a gap
            between times, values that are not finite, or that stand for nothing.
    """
    names, dims = (*grid.channels, *grid.forcing_channels), ("simulation", "time", *grid.dims)
    if names[0] in dataset:
        dataset = with_clock(_with_dims(dataset, names[0], dims), grid)
    for name in names:
        if name not in dataset:
            known = ", ".join(map(str, dataset.data_vars)) or "nothing"
            remedy = nearest(
                name, [str(other) for other in dataset.data_vars if other not in names]
            )
            if name in grid.forcing_channels:
                what = 'what a network is told (corrector.inputs) is a variable, or "coordinates"'
                remedy = f"{what}; {remedy}".removesuffix("; ")
            raise InputError(
                "data",
                got=f"variables {known}",
                expected=f"a variable {name!r}",
                remedy=remedy,
            )
    for name in grid.forcing_channels:  # one that does not change in time, or in space
        if set(dataset[name].dims) < set(dims):
            dataset = dataset.assign({name: dataset[name].broadcast_like(dataset[names[0]])})
    for name in names:
        _check_shape(dataset[name], grid, "f" if name in grid.channels else "biuf")
        _check_unit(dataset[name], grid)
    if "time" in dataset.coords and dataset.sizes["time"] > 1:
        check_times(dataset["time"], grid)
    _check_lengths(dataset, grid)
    if isinstance(grid, Mesh):
        check_points(dataset, grid)
    else:
        dataset = _along_axes(dataset, grid)
    kind = np.result_type(*(dataset[name].dtype for name in grid.channels))
    for name in grid.forcing_channels:
        dataset = dataset.assign({name: _of_type(dataset[name], kind)})
    for name in names:
        fluid = _on_fluid(dataset[name], grid)
        _check_marked(fluid)
        _check_values(fluid, name in grid.channels, partial)
    _check_mask(dataset, grid)
    _check_weights(dataset, grid)
    _warn_of_empty_states(dataset, grid.channels)
    return dataset


def _of_type(variable: xr.DataArray, kind: np.dtype) -> xr.DataArray:
    """A variable in another type; what it cannot hold becomes infinity."""
    with np.errstate(over="ignore"):
        found = variable.astype(kind, copy=False)
    found.encoding = variable.encoding
    return found


def _along_axes(dataset: xr.Dataset, grid: Domain) -> xr.Dataset:
    """A dataset whose axes run as those of the grid do."""
    assert isinstance(grid, Grid)
    _check_boundary(dataset, grid)
    for axis, dim in enumerate(grid.dims):
        has_places = dim in dataset.coords and dataset.sizes[dim] > 1
        if has_places and _is_turned(dataset[dim], grid, axis):
            log.warning("data: %s runs the other way in the file; turned round", dim)
            dataset = dataset.isel({dim: slice(None, None, -1)})
    return dataset


def _of_cells(dataset: xr.Dataset, name: str, grid: Domain) -> np.ndarray | None:
    """What a file says of every cell, at its first simulation and time; None: nothing."""
    if name not in dataset:
        return None
    known = dataset[name].isel({d: 0 for d in dataset[name].dims if d not in grid.dims})
    return known.transpose(*grid.dims).values if set(known.dims) == set(grid.dims) else None


def _fluid(grid: Domain) -> np.ndarray:
    return np.ones(grid.shape, dtype=bool) if grid.fluid is None else grid.fluid.numpy()


def _check_mask(dataset: xr.Dataset, grid: Domain) -> None:
    """Require the grid's mask where the file has one: a variable "mask" of 0 and 1 in its cells."""
    known = _of_cells(dataset, "mask", grid)
    if known is None or not np.isin(known, (0, 1)).all():
        return
    if others := int((known != _fluid(grid)).sum()):
        expected, remedy = "the grid's, 1 where there is fluid", f"{others:,} cells are not"
        raise InputError("data mask", got="another one", expected=expected, remedy=remedy)


def _check_weights(dataset: xr.Dataset, grid: Domain) -> None:
    """Require the grid's weights where the file has some of its cells; ratios alone matter."""
    known = _of_cells(dataset, "weights", grid)
    if known is None or known.dtype.kind not in "biuf":
        return
    own = np.ones(grid.shape) if grid.cell_weights is None else grid.cell_weights.numpy()
    mine, theirs = (values[_fluid(grid)].astype(np.float64) for values in (own, known))
    if not np.allclose(mine / mine.mean(), theirs / theirs.mean(), rtol=1e-3):
        expected, remedy = "the grid's", 'the grid\'s own weights, or .drop_vars("weights")'
        raise InputError("data weights", got="other ones", expected=expected, remedy=remedy)


def _on_fluid(variable: xr.DataArray, grid: Domain) -> xr.DataArray:
    """A variable with the value of one fluid cell outside of the grid's mask."""
    if grid.fluid is None:
        return variable
    mask = xr.DataArray(grid.fluid.numpy(), dims=grid.dims)
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
            dataset = with_name(dataset, times[0], "time")
            others.remove(times[0])
        elif "time" not in dims and "time" in dataset.coords and not dataset["time"].ndim:
            dataset = dataset.expand_dims("time")  # one state
        if not others and "simulation" not in dims and len(set(dims)) == len(dims):
            dataset = dataset.expand_dims("simulation")
    except ValueError:
        pass  # two things of one name; what is missing is said next
    return dataset


def with_name(dataset: xr.Dataset, old: str, new: str) -> xr.Dataset:
    """With another name of a dim or a variable; a coordinate of that name may be there already."""
    taken = new in dataset.variables and old in dataset.dims
    return (dataset.swap_dims if taken else dataset.rename)({old: new})


def _check_shape(variable: xr.DataArray, grid: Domain, kinds: str) -> None:
    """Require the grid's dims and shape, and numbers of these kinds, as numpy names them."""
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
            remedy = f"data.dims, or such as xarray's {remedy}"
        raise InputError(what, got=f"dims {tuple(dims)}", expected=str(wanted), remedy=remedy)
    if variable.dtype.kind not in kinds or variable.dtype.itemsize > 8:
        raise InputError(what, got=f"type {variable.dtype}", expected="real numbers")
    shape = tuple(variable.sizes[dim] for dim in grid.dims)
    if shape != grid.shape:
        raise InputError(what, got=f"{shape} cells", expected=f"{grid.shape}")
    if not variable.size:
        got = f"{variable.sizes['simulation']} simulations of {variable.sizes['time']} times"
        raise InputError(what, got=got, expected="at least one of each")


def _check_unit(variable: xr.DataArray, grid: Domain) -> None:
    """Require the grid's unit of a variable where both name one.

    zopde writes "1" where a grid names none, so in a file it contradicts shares alone, such as "%".
    """
    given = str(variable.attrs.get("units", "")).strip()
    own = grid.units.get(str(variable.name), "").strip()
    if not given or not own or (given == "1" and not is_share(own)):
        return
    what, same = f"data {variable.name!r}", same_unit(given, own)
    if same is None:
        log.warning("%s: in %s, the grid's in %s: not compared", what, given, own)
    elif not same:
        remedy = "bring the data, and the grid's units, to one unit"
        raise InputError(
            what, got=f"units {given!r}", expected=f"the grid's {own!r}", remedy=remedy
        )


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


def _check_boundary(dataset: xr.Dataset, grid: Grid) -> None:
    """Require the grid's boundary where the file names one for a dim."""
    for dim, closed in zip(grid.dims, grid.periodic, strict=True):
        own = "periodic" if closed else "open"
        given = dataset[dim].attrs.get("boundary", own) if dim in dataset.coords else own
        if given != own:
            raise InputError(f"data boundary of {dim}", got=given, expected=f"the grid's {own}")


def _is_turned(places: xr.DataArray, grid: Grid, axis: int) -> bool:
    """Whether a coordinate runs the other way than the grid.

    It must be the grid's own; where the grid has none, its steps must be the cells, or count them.
    """
    values, what = places.values, f"data coordinate {places.name!r}"
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        got = f"type {values.dtype}, dims {places.dims}"
        raise InputError(what, got=got, expected="numbers along it")
    if grid.dims[axis] in grid.coordinates:
        own, near = np.array(grid.centres(axis)), np.abs(np.diff(grid.edges(axis)))
        off = [np.abs(v - own) > 1e-3 * near + 4 * blur_of(values) for v in (values, values[::-1])]
        if off[0].any() and off[1].any():
            first = int(off[0].argmax())
            got, expected = f"{values[first]:g} in cell {first}", f"{own[first]:g}, the grid's"
            remedy = f'coordinates={{"{places.name}": ...}} of the grid as the data have them'
            raise InputError(what, got=got, expected=expected, remedy=remedy)
        return bool(off[0].any())
    cell = grid.extent[axis] / grid.shape[axis]
    steps = np.diff(values.astype(np.float64))
    wanted = 1.0 if values.dtype.kind != "f" and abs(steps[0]) == 1 else cell
    right = np.abs(steps * np.sign(steps[0]) - wanted) <= 1e-3 * wanted + 4 * blur_of(values)
    if not right.all():
        first = int(right.argmin())
        got = f"{values[first]:g}, then {values[first + 1]:g}"
        expected = f"steps of {wanted:g}, the grid's cells"
        remedy = "name the grid's extent as the data mean it, or its coordinates if cells differ, "
        remedy += f'or .drop_vars("{places.name}")'
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


def _check_values(variable: xr.DataArray, is_state: bool, partial: bool) -> None:
    values, what = variable.values, f"data {variable.name!r}"
    bad = np.argwhere(np.isinf(values) if partial and is_state else ~np.isfinite(values))
    if len(bad):
        got = f"NaN or infinity, first at {tuple(map(int, bad[0]))}, {len(bad):,} values in all"
        remedy = "a _FillValue is read as NaN: fill or cut out those cells, or leave them out by "
        remedy += "the mask of the grid; "
        if is_state:
            remedy += "states that were measured in part need data.partial=true"
        else:
            remedy += f"{variable.name!r} is a forcing or one of corrector.inputs, which must be "
            remedy += "known everywhere, also with data.partial"
        raise InputError(what, got=got, expected="finite values", remedy=remedy)
    values = values[~np.isnan(values)]
    if not values.size:
        return
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
