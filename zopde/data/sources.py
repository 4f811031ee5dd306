"""Files of a data set: found by a pattern, read, and their names brought to the grid's."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from glob import glob
from pathlib import Path

import xarray as xr

from zopde.data.fitting import with_name
from zopde.data.well import is_well, read_well
from zopde.errors import InputError
from zopde.netcdf import read_netcdf
from zopde.validate import check_choice

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
