"""Trajectories as an xarray Dataset, and as a NetCDF4 file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from zopde.data.trajectories import Settings, Trajectories
from zopde.errors import InputError, first_line
from zopde.files import replacing
from zopde.grid import Grid
from zopde.validate import check_folder_writable


def save_trajectories(trajectories: Trajectories, path: Path | str) -> None:
    """Write NetCDF4 through h5netcdf; a reader sees the old file or the new one, never half.

    Args:
        trajectories: What to keep; see `to_dataset` for the layout.
        path: The file; its folder is made where it does not exist.

    Raises:
        InputError: If the folder is not writable.
    """
    check_folder_writable("folder of the data file", Path(path).parent)
    with replacing(Path(path)) as partial:
        to_dataset(trajectories).to_netcdf(partial, engine="h5netcdf")


def load_trajectories(
    path: Path | str, grid: Grid, settings: Settings | None = None
) -> Trajectories:
    """Read trajectories for a solver's grid.

    Args:
        path: A NetCDF file.
        grid: The solver's grid; see `from_dataset` for what is checked.
        settings: What the file's recorded settings must be. A file without any, a user's
            own, is taken as it is.

    Raises:
        InputError: If the file is missing, unreadable, does not fit the grid, or was made
            with other settings.
    """
    trajectories = from_dataset(_read(Path(path)), grid)
    recorded = trajectories.settings
    if settings is None or not recorded:
        return trajectories
    for name in sorted(recorded.keys() | settings.keys()):
        if name != "zopde_version" and recorded.get(name) != settings.get(name):
            raise InputError(
                f"setting {name!r} of data file {path}",
                got=repr(recorded.get(name)),
                expected=repr(settings.get(name)),
                remedy="delete the file to have it made again, or name another with --data",
            )
    return trajectories


def load_rollout(path: Path) -> Trajectories:
    """States of unseen runs that a run folder keeps, with their grid; diverged ones are NaN.

    Raises:
        InputError: If the file is missing or was not written by zopde.
    """
    dataset = _read(path)
    try:
        names = tuple(map(str, dataset.data_vars))
        dims = tuple(map(str, dataset[names[0]].dims))
        grid = Grid(
            shape=tuple(dataset.sizes[dim] for dim in dims[2:]),
            extent=tuple(float(length) for length in np.atleast_1d(dataset.attrs["extent"])),
            dt=float(dataset.attrs["dt"]),
            channels=names,
            dims=dims[2:],
            boundary="periodic" if dataset.attrs["boundary"] == "periodic" else "open",
            units={
                **{name: str(dataset[name].attrs.get("units", "1")) for name in (*names, "time")},
                "space": str(dataset[dims[2]].attrs.get("units", "1")),
            },
        )
        return Trajectories(grid, _stack(dataset, names, dims), None, _settings(dataset))
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"data file {path}",
            got=f"other content ({first_line(error)})",
            expected="states that a zopde run wrote",
        ) from error


def to_dataset(trajectories: Trajectories) -> xr.Dataset:
    """As a Dataset with dims (simulation, time, *space) and a variable per channel."""
    grid, settings = trajectories.grid, trajectories.settings
    dims = ("simulation", "time", *grid.dims)
    variables: dict[str, Any] = {}
    for names, values in (
        (grid.channels, trajectories.states),
        (grid.forcing_channels, trajectories.forcing),
    ):
        for i, name in enumerate(names):
            assert values is not None
            variables[name] = (dims, values[:, :, i].cpu().numpy(), {"units": grid.unit(name)})
    time = (int(settings.get("skip", 0)) + np.arange(trajectories.steps + 1)) * grid.dt
    coords: dict[str, Any] = {
        "simulation": np.arange(trajectories.simulations),
        "time": ("time", time, {"units": grid.unit("time")}),
    }
    for axis, dim in enumerate(grid.dims):
        coords[dim] = (dim, grid.centres(axis), {"units": grid.unit("space")})
    attributes = {
        "dt": grid.dt,
        "extent": list(grid.extent),
        "boundary": grid.boundary,
        "settings": json.dumps(settings, sort_keys=True),
    }
    for name in ("solver", "seed", "zopde_version"):
        if name in settings:
            attributes[name] = settings[name]
    return xr.Dataset(variables, coords, attributes)


def from_dataset(dataset: xr.Dataset, grid: Grid) -> Trajectories:
    """Read a Dataset back, checking it against the grid of the solver that will use it.

    Args:
        dataset: As `to_dataset` writes it; a user's own needs the dims, a variable per channel
            and, if present, agreeing attributes `dt` and `extent`.
        grid: What the solver expects.

    Raises:
        InputError: On a missing variable, other dims or shape, NaN, or another dt or extent.
    """
    if "time" in dataset.coords and len(dataset["time"]) > 1 and "dt" not in dataset.attrs:
        spacing = float(dataset["time"][1] - dataset["time"][0])
        if not np.isclose(spacing, grid.dt):
            raise InputError("data time", got=f"steps of {spacing:g}", expected=f"{grid.dt:g}")
    dims = ("simulation", "time", *grid.dims)
    for name in (*grid.channels, *grid.forcing_channels):
        _check_variable(dataset, name, dims, grid)
    for name, expected in (("dt", [grid.dt]), ("extent", list(grid.extent))):
        value = dataset.attrs.get(name, expected)
        if not _close(value, expected):
            raise InputError(f"data {name}", got=value, expected=str(expected))
    states = _stack(dataset, grid.channels, dims)
    forcing = _stack(dataset, grid.forcing_channels, dims) if grid.forcing_channels else None
    if states.shape[1] < 2:
        raise InputError("data", got=f"{states.shape[1]} times", expected="at least 2")
    return Trajectories(grid, states, forcing, _settings(dataset))


def _read(path: Path) -> xr.Dataset:
    if not path.is_file():
        raise InputError("data file", got=f"{path}", expected="an existing NetCDF file")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return dataset.load()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"data file {path}",
            got=f"unreadable ({first_line(error)})",
            expected="a complete NetCDF4 file",
            remedy="delete it to have it made again, or name another with --data",
        ) from error


def _settings(dataset: xr.Dataset) -> Settings:
    try:
        settings = json.loads(dataset.attrs.get("settings", "{}"))
    except (TypeError, ValueError):
        settings = None
    if not isinstance(settings, dict):
        raise InputError("data attribute 'settings'", got="no JSON object", expected="one, or none")
    return settings


def _close(value: object, expected: list[float]) -> bool:
    try:
        return bool(np.allclose(np.atleast_1d(np.asarray(value, dtype=float)), expected))
    except (TypeError, ValueError):
        return False


def _check_variable(dataset: xr.Dataset, name: str, dims: tuple[str, ...], grid: Grid) -> None:
    if name not in dataset:
        known = ", ".join(map(str, dataset.data_vars)) or "nothing"
        raise InputError("data", got=f"variables {known}", expected=f"a variable {name!r}")
    variable = dataset[name]
    if set(variable.dims) != set(dims):
        raise InputError(f"data {name!r}", got=f"dims {variable.dims}", expected=str(dims))
    if not np.issubdtype(variable.dtype, np.floating):
        raise InputError(f"data {name!r}", got=f"type {variable.dtype}", expected="real numbers")
    shape = tuple(variable.sizes[dim] for dim in grid.dims)
    if shape != grid.shape:
        raise InputError(f"data {name!r}", got=f"{shape} cells", expected=f"{grid.shape}")
    bad = np.argwhere(~np.isfinite(variable.values))
    if len(bad):
        got = f"NaN or infinity, first at {tuple(map(int, bad[0]))}"
        raise InputError(f"data {name!r}", got=got, expected="finite values")


def _stack(dataset: xr.Dataset, names: tuple[str, ...], dims: tuple[str, ...]) -> Tensor:
    arrays = [dataset[name].transpose(*dims).values for name in names]
    return torch.from_numpy(np.stack(arrays, axis=2))
