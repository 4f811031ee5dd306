"""Trajectories on a mesh, as a file, and what does not suit the solver's mesh."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial import Delaunay

from zopde import InputError, Mesh, Trajectories, load_trajectories, save_trajectories
from zopde.data import from_dataset, load_rollout, to_dataset

POINTS = np.random.default_rng(0).random((20, 2))
CELLS = Delaunay(POINTS).simplices


def data_on(mesh, simulations=2, times=3):
    draw = torch.Generator().manual_seed(0)
    states = torch.rand(simulations, times, len(mesh.channels), *mesh.shape, generator=draw)
    forcing = None
    if mesh.forcing_channels:
        forcing = torch.rand(simulations, times, 1, *mesh.shape, generator=draw)
    return Trajectories(mesh, states, forcing)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_file_keeps_mesh_and_numbers(axes, tmp_path):
    points = np.random.default_rng(axes).random((20, axes))
    units = {"u": "K", "v": "1", "space": "m", "time": "s"}
    mesh = Mesh(points, 0.1, ("u", "v"), weights=1 + points[:, 0], units=units)
    written = data_on(mesh)
    save_trajectories(written, tmp_path / "data.nc")
    read = load_trajectories(tmp_path / "data.nc", mesh)
    assert torch.equal(read.states, written.states)
    assert load_rollout(tmp_path / "data.nc").grid == mesh


def test_a_file_keeps_cells_and_forcing(tmp_path):
    mesh = Mesh(POINTS, 0.1, ("u",), forcing_channels=("heating",), cells=CELLS)
    written = data_on(mesh)
    save_trajectories(written, tmp_path / "data.nc")
    assert torch.equal(load_trajectories(tmp_path / "data.nc", mesh).forcing, written.forcing)
    with xr.open_dataset(tmp_path / "data.nc", engine="h5netcdf") as dataset:
        assert dataset["cells"].dims == ("cell", "corner")
        assert dataset["u"].dims == ("simulation", "time", "point")


def own_file(**coords):
    """What a user writes: points in single precision, dims in another order, no neighbours."""
    values = np.random.default_rng(1).random((20, 2, 3)).astype("float32")
    places = {"x": ("point", POINTS[:, 0].astype("float32")), "y": ("point", POINTS[:, 1])}
    return xr.Dataset({"u": (("point", "simulation", "time"), values)}, {**places, **coords})


def test_a_users_own_file_is_read():
    mesh, dataset = Mesh(POINTS, 0.1, ("u",), cells=CELLS), own_file()
    expected = torch.tensor(dataset["u"].transpose("simulation", "time", "point").values)
    assert torch.equal(from_dataset(dataset, mesh).states[:, :, 0], expected)
    turned = own_file(cells=(("cell", "corner"), np.roll(CELLS, 1, axis=1)[::-1]))
    assert from_dataset(turned, mesh).simulations == 2  # the same triangles, told otherwise


@pytest.mark.parametrize(
    ("coords", "words"),
    [
        ({"x": ("point", POINTS[::-1, 0])}, "at point 0, expected the mesh's"),
        ({"y": ("point", POINTS[:, 1] * 1.01)}, "bring the points of the file into the order"),
        ({"y": ("point", np.full(20, np.nan))}, "y = nan at point 0"),
        ({"cells": (("cell", "corner"), CELLS[:, ::-1] // 2)}, "data cells"),
        ({"neighbours": (("pair", "end"), [[0, 1]])}, "data neighbours"),
        ({"x": ("point", POINTS[:, 0], {"units": "km"})}, "one unit of length"),
    ],
)
def test_another_mesh_is_refused_in_one_line(coords, words):
    mesh = Mesh(POINTS, 0.1, ("u",), cells=CELLS, units={"space": "m"})
    with pytest.raises(InputError) as caught:
        from_dataset(own_file(**coords), mesh)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_coordinates_or_with_other_points_is_refused():
    mesh = Mesh(POINTS, 0.1, ("u",))
    with pytest.raises(InputError, match="no variable 'y'"):
        from_dataset(own_file().drop_vars("y"), mesh)
    with pytest.raises(InputError, match=r"\(19,\) cells"):
        from_dataset(own_file().isel(point=slice(19)), mesh)
    with pytest.raises(InputError, match="data dt"):
        from_dataset(to_dataset(data_on(mesh)).assign_attrs(dt=0.2), mesh)
