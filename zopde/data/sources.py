"""Files of a data set: found by a pattern, read, and their names brought to the grid's."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from zopde.contracts import Domain
from zopde.data.fitting import with_name
from zopde.data.units import same_unit
from zopde.data.well import is_well, read_well
from zopde.errors import InputError
from zopde.netcdf import read_netcdf
from zopde.validate import check_choice

Said = Mapping[str, Any]
Files = Path | str | list[Path | str] | tuple[Path | str, ...]


def data_files(given: Files) -> list[Path]:
    """The files of a name, a pattern such as "run*.nc", or a list of these, in their order."""
    found: list[Path] = []
    for name in [given] if isinstance(given, str | Path) else given:
        is_pattern = any(mark in str(name) for mark in "*?[") and not Path(name).exists()
        matches = sorted(glob(str(name), recursive=True)) if is_pattern else [str(name)]
        if not matches:
            raise InputError("data file", got=f"{name}, which no file fits", expected="a file")
        found += map(Path, matches)
    if not found:
        raise InputError("data file", got="an empty list", expected="at least one file")
    return found


def read_data(path: Path, names: Mapping[str, str], known: Iterable[str]) -> xr.Dataset:
    """A file, NetCDF or of the layout of The Well, with `names` of its own changed to others."""
    dataset = read_well(path) if is_well(path) else read_netcdf(path)
    there = list(dict.fromkeys([*map(str, dataset.variables), *map(str, dataset.dims)]))
    for old, new in names.items():
        check_choice(f"new name of {old!r}", new, known)
        check_choice(f"name in data file {path}", old, there)
        try:
            with warnings.catch_warnings(action="ignore"):  # that a coordinate has no index
                dataset = with_name(dataset, old, new)
        except ValueError as error:
            got, expected = f"{old!r} as {new!r}", "another name: there is one in the file"
            raise InputError(f"names in data file {path}", got=got, expected=expected) from error
    return dataset


def said_by(dataset: xr.Dataset, grid: Domain) -> Said:
    """What the files of one data set must say alike: units, places of cells, simulations."""
    names = [n for n in (*grid.channels, *grid.forcing_channels) if n in dataset]
    units = {f"units of {n}": dataset[n].attrs.get("units") for n in names}
    told: dict[str, Any] = {key: str(unit) for key, unit in units.items() if unit is not None}
    for dim in ("simulation", *grid.dims):
        if dim in dataset.coords:
            told[dim] = dataset[dim].values
    return told


def check_alike(files: Sequence[Path], said: Sequence[Said], in_time: bool) -> None:
    """Require that no file contradicts the first one.

    An axis may run the other way in it. Of files that are the times of one run, the simulations
    must be the same, in their order.
    """
    for file, told in zip(files, said, strict=True):
        for key in told.keys() & said[0].keys():
            mine, first = told[key], said[0][key]
            if isinstance(mine, str):
                alike = same_unit(mine, first) is not False
            elif key == "simulation":
                alike = not in_time or np.array_equal(mine, first)
            else:
                both = np.sort(mine), np.sort(first)
                near = 1e-3 * np.ptp(first) / len(first) if first.dtype.kind in "iuf" else 0
                alike = len(mine) == len(first) and bool((abs(both[0] - both[1]) <= near).all())
            if not alike:
                got, wanted = (v if isinstance(v, str) else v[:4].tolist() for v in (mine, first))
                expected = f"that of the first file, {wanted}"
                raise InputError(f"data file {file}", got=f"{key} {got}", expected=expected)
