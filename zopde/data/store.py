"""Trajectories on disk: NetCDF4, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import xarray as xr

from zopde.data.trajectories import Settings, Trajectories, from_dataset, from_own, to_dataset
from zopde.errors import InputError, first_line
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
    write_netcdf(to_dataset(trajectories), Path(path))


def write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Write any Dataset atomically: a reader sees the old file or the new one."""
    check_folder_writable("folder of the data file", path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    dataset.to_netcdf(partial, engine="h5netcdf")
    partial.replace(path)


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
    dataset = _read(Path(path))
    trajectories = from_dataset(dataset, grid)
    if settings is not None and trajectories.settings:
        _check_settings(Path(path), trajectories.settings, settings)
    return trajectories


def load_rollout(path: Path) -> Trajectories:
    """States of unseen runs that a run folder keeps, with their grid; diverged ones are NaN.

    Raises:
        InputError: If the file is missing or was not written by zopde.
    """
    dataset = _read(path)
    try:
        return from_own(dataset)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"data file {path}",
            got=f"other content ({first_line(error)})",
            expected="states that a zopde run wrote",
        ) from error


def _read(path: Path) -> xr.Dataset:
    if not path.is_file():
        raise InputError("data file", got=f"{path}", expected="an existing NetCDF file")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            dataset.load()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = first_line(error)
        raise InputError(
            f"data file {path}",
            got=f"unreadable ({reason})",
            expected="a complete NetCDF4 file",
            remedy="delete it to have it made again, or name another with --data",
        ) from error
    return dataset


def _check_settings(path: Path, found: Settings, wanted: Settings) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if name != "zopde_version" and found.get(name) != wanted.get(name):
            raise InputError(
                f"setting {name!r} of data file {path}",
                got=repr(found.get(name)),
                expected=repr(wanted.get(name)),
                remedy="delete the file to have it made again, or name another with --data",
            )
