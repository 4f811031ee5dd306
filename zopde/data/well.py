"""The layout of The Well (Ohana et al., NeurIPS 2024, arXiv 2412.00568): HDF5, in and out."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from zopde.errors import InputError
from zopde.files import reading, write_bytes

_OURS = ("dt", "extent", "settings")  # attributes that only zopde writes


def is_well(path: Path) -> bool:
    """Whether a file is HDF5 and has the groups of that layout."""
    try:
        with h5py.File(path, "r") as file:
            return "dimensions" in file and "t0_fields" in file
    except (OSError, RuntimeError):  # no HDF5, or damaged, which whoever reads it says
        return False


def read_well(path: Path | str) -> xr.Dataset:
    """Read a file of The Well.

    A component of a vector or a matrix becomes a variable with the names of its dims, as
    "velocity_x" or "stress_xy"; a field that does not change in time is repeated.

    Args:
        path: An HDF5 file of that layout.

    Returns:
        Dims (simulation, time, *space); a space dim has an attribute `boundary`, "periodic" or
        "open", as far as the file tells.

    Raises:
        InputError: If the file is damaged, of another layout, or its simulations have other times.
    """
    expected = "a complete file of The Well's layout"
    with reading("data file", path, expected), h5py.File(path, "r") as file:
        places = file["dimensions"]
        space = [str(dim) for dim in places.attrs["spatial_dims"]]
        shape = tuple(places[dim].shape[-1] for dim in space)
        sizes = (int(file.attrs["n_trajectories"]), places["time"].shape[-1], *shape)
        coords = {dim: (dim, _shared(places[dim]), _boundary(file, dim)) for dim in space}
        fields = dict(field for order in range(3) for field in _fields(file, order, space, sizes))
        return xr.Dataset(
            {name: (("simulation", "time", *space), values) for name, values in fields.items()},
            {"time": _shared(places["time"]), **coords},
            {key: file.attrs[key] for key in _OURS if key in file.attrs},
        )


def _shared(places: h5py.Dataset) -> Any:  # noqa: ANN401 - an array
    """Coordinates, which must be the same for all simulations."""
    values = np.atleast_2d(places[()])
    if not (values == values[:1]).all():
        raise ValueError(f"{places.name} is not the same for all simulations")
    return values[0]


def _fields(
    file: h5py.File, order: int, space: list[str], sizes: tuple[int, ...]
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, values in all of `sizes`) of every component of the tensors of an order."""
    for name, field in file.get(f"t{order}_fields", {}).items():
        marks, values = field.attrs, field[()]
        if not marks["time_varying"]:
            values = np.expand_dims(values, int(bool(marks["sample_varying"])))
        if not marks["sample_varying"]:
            values = values[None]
        for component in product(range(len(space)), repeat=order):
            label = "".join(space[i] for i in component)
            found = values[(..., *component)]
            yield f"{name}_{label}" if label else name, np.broadcast_to(found, sizes)


def _boundary(file: h5py.File, dim: str) -> dict[str, str]:
    """An attribute, the grid's word for the border of a dim, where the file says it."""
    marks = [one.attrs for one in file.get("boundary_conditions", {}).values()]
    kinds = {str(of["bc_type"]).upper() for of in marks if dim in map(str, of["associated_dims"])}
    return {"boundary": "periodic" if kinds == {"PERIODIC"} else "open"} if kinds else {}


def write_well(dataset: xr.Dataset, path: Path | str) -> None:
    """Write a dataset in the layout of The Well, whole or not at all.

    Variables "name_x", "name_y" ... of all space dims are a vector "name"; all others are scalars.
    Mask and weights are fields that do not change in time; outside of the mask is 0.

    Args:
        dataset: As `to_dataset` makes it.
        path: The file, by the habit of that layout ending in .hdf5; its folder is made.

    Raises:
        InputError: If the states live on a mesh, the disk is full, or the folder cannot be written.
    """
    if "point" in dataset.dims:
        expected, remedy = "states on a grid for The Well", "a name that ends in .nc"
        raise InputError(f"data file {path}", got="a mesh", expected=expected, remedy=remedy)
    memory = BytesIO()
    with h5py.File(memory, "w") as file:
        _write(file, dataset, Path(path).stem)
    write_bytes(Path(path), memory.getvalue())


def _write(file: h5py.File, dataset: xr.Dataset, title: str) -> None:
    values = {str(name): variable.values for name, variable in dataset.items()}
    space = [str(dim) for dim in next(iter(dataset.values())).dims[2:]]
    still = {n: dataset[n].values for n in ("mask", "weights") if n in dataset.coords}
    if "mask" in still:
        values = {name: np.where(still["mask"], field, 0) for name, field in values.items()}
    file.attrs.update(
        dataset_name=title,
        grid_type="cartesian",
        n_spatial_dims=len(space),
        n_trajectories=dataset.sizes["simulation"],
        simulation_parameters=[],
        **{key: dataset.attrs[key] for key in _OURS},
    )
    group = file.create_group("dimensions")
    group.attrs["spatial_dims"] = space
    for dim in ("time", *space):
        _put(group, dim, dataset[dim].values, sample_varying=False)
    group, words = file.create_group("boundary_conditions"), dataset.attrs["boundary"].split()
    for dim, word in zip(space, words * (len(space) // len(words)), strict=True):
        ends = np.isin(np.arange(dataset.sizes[dim]), (0, dataset.sizes[dim] - 1))
        one = group.create_group(f"{dim}_{word}")
        one.attrs.update(bc_type=word.upper(), associated_dims=[dim], associated_fields=[])
        one.attrs.update(sample_varying=False, time_varying=False)
        _put(one, "mask", ends)
    file.create_group("scalars").attrs["field_names"] = []
    ends_of = [f"_{dim}" for dim in space]
    stems = [name.removesuffix(ends_of[0]) for name in values if name.endswith(ends_of[0])]
    vectors = [stem for stem in stems if all(stem + end in values for end in ends_of)]
    parts = {stem: [values.pop(stem + end) for end in ends_of] for stem in vectors}
    tensors = [values | still, {stem: np.stack(part, axis=-1) for stem, part in parts.items()}, {}]
    for order, fields in enumerate(tensors):
        group = file.create_group(f"t{order}_fields")
        group.attrs["field_names"] = list(fields)
        for name, field in fields.items():
            varies, everywhere = name not in still, [True] * len(space)
            marks = {"sample_varying": varies, "time_varying": varies, "dim_varying": everywhere}
            _put(group, name, field, **marks)


def _put(group: h5py.Group, name: str, values: np.ndarray, **marks: Any) -> None:  # noqa: ANN401
    group.create_dataset(name, data=values).attrs.update(marks)
