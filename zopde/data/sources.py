"""Files of a data set: found by a pattern, read, and their names brought to the grid's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from glob import glob
from pathlib import Path

import xarray as xr

from zopde.data.fitting import with_name
from zopde.data.well import is_well, read_well
from zopde.errors import InputError
from zopde.netcdf import read_netcdf
from zopde.validate import nearest

Files = Path | str | list[Path | str] | tuple[Path | str, ...]


def data_files(given: Files) -> list[Path]:
    """The files of a name, a pattern such as "run*.nc", or a list of these, in their order.

    Raises:
        InputError: If no file fits a pattern, or the list is empty.
    """
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
    """A file as it is, NetCDF or of the layout of The Well, with `names` changed.

    Args:
        path: The file.
        names: Name of a dim or variable of the file -> one of the `known` names.
        known: Names that mean something.
    """
    dataset = read_well(path) if is_well(path) else read_netcdf(path)
    there = [*map(str, dataset.variables), *map(str, dataset.dims)]
    for old, new in names.items():
        if new not in known:
            expected = f"one of {', '.join(known)}"
            raise InputError(f"new name of {old!r}", got=repr(new), expected=expected)
        if old not in there:
            expected = f"one of {', '.join(dict.fromkeys(there))}"
            what = f"name in data file {path}"
            raise InputError(what, got=repr(old), expected=expected, remedy=nearest(old, there))
        try:
            dataset = with_name(dataset, old, new)
        except ValueError as error:
            got, expected = f"{old!r} as {new!r}", "another name: there is one in the file"
            raise InputError(f"names in data file {path}", got=got, expected=expected) from error
    return dataset
