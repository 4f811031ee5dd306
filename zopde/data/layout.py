"""How the domain of a state lies in a file: the coordinates and attributes that tell it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from zopde.contracts import Domain
from zopde.errors import InputError
from zopde.grid import Grid
from zopde.mesh import AXES, Mesh

_CELLS = ("mask", "weights")  # of a grid, coordinates of a file
# Of a mesh, and their dims
_PARTS = {"cells": ("cell", "corner"), "neighbours": ("pair", "end"), "weights": ("point",)}
PARTS = ("mask", *AXES, *_PARTS)
"""What a file may say of its domain besides the dims."""
_NEAR = 1e-5  # of the size of a mesh: coordinates in single precision are the same points


def layout_of(domain: Domain) -> tuple[dict[str, Any], dict[str, Any]]:
    """Coordinates and attributes of a file whose states live on a domain."""
    space = {"units": domain.unit("space")}
    if isinstance(domain, Mesh):
        axes = zip(AXES, domain.positions.T.numpy(), strict=False)
        coords: dict[str, Any] = {name: ("point", values, space) for name, values in axes}
        parts = {name: (dims, getattr(domain, name)) for name, dims in _PARTS.items()}
        coords |= {k: (dims, np.array(v)) for k, (dims, v) in parts.items() if v is not None}
        return coords, {"dt": domain.dt}
    assert isinstance(domain, Grid)
    coords = {d: (d, domain.centres(axis), space) for axis, d in enumerate(domain.dims)}
    cells = {name: getattr(domain, name) for name in _CELLS}
    coords |= {name: (domain.dims, np.array(c)) for name, c in cells.items() if c is not None}
    words = domain.boundary if isinstance(domain.boundary, str) else " ".join(domain.boundary)
    return coords, {"dt": domain.dt, "extent": list(domain.extent), "boundary": words}


def domain_of(dataset: xr.Dataset) -> Grid | Mesh:
    """The domain of states that zopde wrote, the inverse of `layout_of`."""
    names = tuple(map(str, dataset.data_vars))
    dims = tuple(map(str, dataset[names[0]].dims))[2:]
    units_of = {name: name for name in (*names, "time")} | {"space": dims[0]}
    if dims == Mesh.dims:
        units_of["space"] = "x"
    units = {u: str(dataset[name].attrs.get("units", "1")) for u, name in units_of.items()}
    dt = float(dataset.attrs["dt"])
    if dims == Mesh.dims:
        points = np.stack([dataset[a].values for a in AXES if a in dataset.coords], axis=1)
        parts: dict[str, Any] = {n: dataset[n].values for n in _PARTS if n in dataset.coords}
        return Mesh(points, dt, names, units=units, **parts)
    cells: dict[str, Any] = {n: dataset.coords[n].values for n in _CELLS if n in dataset.coords}
    grid = Grid(
        shape=tuple(dataset.sizes[dim] for dim in dims),
        extent=tuple(np.atleast_1d(dataset.attrs["extent"]).astype(float).tolist()),
        dt=dt,
        channels=names,
        dims=dims,
        boundary=tuple(str(dataset.attrs["boundary"]).split()),
        units=units,
        **cells,
    )
    own = {dim: dataset[dim].values for dim in dims if dim in dataset.coords}
    own = {d: v for d, v in own.items() if list(v) != grid.centres(dims.index(d))}
    return replace(grid, coordinates={d: v.tolist() for d, v in own.items()})


def check_points(dataset: xr.Dataset, mesh: Mesh) -> None:
    """Require the mesh's points of a file, in its order, and its cells where both name some.

    Raises:
        InputError: If a coordinate is missing, or a point or a cell is another one.
    """
    expected = mesh.positions.numpy()
    for axis, name in enumerate(AXES[: expected.shape[1]]):
        if name not in dataset.variables or dataset[name].dims != Mesh.dims:
            got = f"no variable {name!r} of the dimension 'point'"
            remedy = f'such as xarray\'s .assign_coords({name}=("point", ...))'
            wanted = "the coordinates of every point, by which the mesh is recognised"
            raise InputError("data", got=got, expected=wanted, remedy=remedy)
        off = np.abs(dataset[name].values - expected[:, axis])
        if not (off <= _NEAR * np.ptp(expected, axis=0).max()).all():
            first = int(np.argmax(~(off <= _NEAR * np.ptp(expected, axis=0).max())))
            got = f"{name} = {dataset[name].values[first]:g} at point {first}"
            remedy = "bring the points of the file into the order of the solver's mesh"
            wanted = f"the mesh's {expected[first, axis]:g}"
            raise InputError("data points", got=got, expected=wanted, remedy=remedy)
    for name in ("cells", "neighbours"):
        if name in dataset.variables and getattr(mesh, name) is not None:
            rows = (np.asarray(r) for r in (dataset[name].values, getattr(mesh, name)))
            mine, own = ({tuple(sorted(row)) for row in array.tolist()} for array in rows)
            if mine != own:
                got = f"{len(mine - own):,} that the solver's mesh has not"
                raise InputError(f"data {name}", got=got, expected=f"the mesh's {len(own):,}")
