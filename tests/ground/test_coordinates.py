"""Grids whose cells differ in size, or do not begin at 0."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zopde import BlackBox, Grid, InputError
from zopde.data import Trajectories, load_rollout, load_trajectories, save_trajectories
from zopde.data.trajectories import to_dataset
from zopde.grid import as_grid
from zopde.identity import content_of

DEPTHS = (1.0, 3.5, 8.5)  # of layers of 2, 3 and 7 metres: half-way between are 2.25 and 6


def ocean(**more):
    given = {"coordinates": {"z": DEPTHS}, **more}
    return Grid((3, 4), (12.0, 2.0), 0.1, ("T",), dims=("z", "x"), boundary="open", **given)


def sphere(lat=(20.0, 60.0), rows=4):
    size = (lat[1] - lat[0]) / rows
    places = lat[0] + size * (np.arange(rows) + 0.5)
    return Grid(
        (rows, 8), (40.0, 360.0), 1.0, ("T",), dims=("lat", "lon"), coordinates={"lat": places}
    )


def test_cells_end_half_way_between_centres_exact():
    """What is left of the extent is in proportion to the outer steps: 4.5 m as 2.5 to 5."""
    assert ocean().centres(0) == list(DEPTHS)
    assert np.allclose(ocean().edges(0), [1 - 1.5, 2.25, 6, 11.5])
    down = ocean(coordinates={"z": [-d for d in DEPTHS]})
    assert np.allclose(down.edges(0), [0.5, -2.25, -6, -11.5])
    assert ocean().centres(1) == [0.25, 0.75, 1.25, 1.75]
    assert ocean().edges(1) == [0, 0.5, 1, 1.5, 2]
    alone = Grid((1,), (2.0,), 0.1, ("T",), coordinates={"x": [5.0]})
    assert alone.edges(0) == [4, 6]


def test_the_spacing_of_cells_that_differ_raises():
    assert [ocean().is_uniform(axis) for axis in (0, 1)] == [False, True]
    with pytest.raises(InputError, match=r"different sizes along z.*numpy.diff\(grid.edges\(0\)\)"):
        ocean().spacing  # noqa: B018
    assert sphere().spacing == (10.0, 45.0)
    assert sphere().centres(0) == [25, 35, 45, 55]
    rounded = sphere().coordinates["lat"] + np.array([1e-4, 0, -1e-4, 0])
    assert replace(sphere(), coordinates={"lat": rounded}).is_uniform(0)


@pytest.mark.parametrize(
    ("coordinates", "words"),
    [
        ({"y": DEPTHS}, "grid coordinates of: got 'y', expected one of"),
        ({"z": DEPTHS[:2]}, r"grid coordinates z: got shape \(2,\), expected the grid's \(3,\)"),
        ({"z": (1.0, 8.0, 3.0)}, "grid coordinates z: got another order, expected ascending"),
        ({"z": (1.0, 1.0, 3.0)}, "grid coordinates z: got another order"),
        ({"z": (1.0, float("nan"), 3.0)}, "grid coordinates z: got another order"),
        ({"z": (1.0, 8.0, 13.0)}, "grid coordinates z: got 1 to 13, expected .* the extent 12"),
        ({"z": (1.0, 2.0, 3.0)}, "grid coordinates z: got 1 to 3, expected .* the extent 12"),
        ({"z": "deep"}, "grid coordinates z: got no array"),
        (DEPTHS, "grid coordinates"),
    ],
)
def test_coordinates_that_are_none_raise(coordinates, words):
    with pytest.raises(InputError, match=words):
        ocean(coordinates=coordinates)


def test_they_are_plain_values_and_part_of_who_a_solver_is():
    one, other = ocean(), ocean(coordinates={})
    assert one == ocean(coordinates={"z": np.array(DEPTHS)}) != other
    assert as_grid(json.loads(json.dumps(asdict(one)))) == one
    names = [content_of("", {}, BlackBox(SimpleNamespace(grid=g))) for g in (one, other)]
    assert names[0] != names[1]
    assert repr(one) == repr(other)


def test_who_a_solver_without_them_is_stays_golden():
    """Stores and runs of earlier versions are found again."""
    plain = Grid((2, 4), (1.0, 2.0), 0.1, ("u",), mask=np.eye(2, 4) == 0)
    words = "Grid(shape=(2, 4), extent=(1.0, 2.0), dt=0.1, channels=('u',), forcing_channels=(), "
    words += "dims=('y', 'x'), boundary='periodic', units={})"
    assert repr(plain) == words
    found = content_of("", {}, SimpleNamespace(grid=plain))
    assert found == "fdb25a2ce905408d9499123e38427eda"


def test_other_resolutions_keep_the_axis_exact():
    fine = sphere().with_shape((8, 8))
    assert np.allclose(fine.centres(0), 22.5 + 5 * np.arange(8))
    assert np.allclose(fine.with_shape((4, 8)).centres(0), sphere().centres(0))
    cut = ocean().with_shape((6, 4))
    assert np.allclose(cut.centres(0)[:2], [-0.5 + 2.75 / 4, -0.5 + 3 * 2.75 / 4])
    assert cut.extent == ocean().extent


def numbers(grid):
    draw = torch.Generator().manual_seed(0)
    return Trajectories(grid, torch.rand(2, 3, 1, *grid.shape, generator=draw))


@pytest.mark.parametrize("grid", [ocean(), sphere()])
def test_files_bring_them_back_exact(grid, tmp_path):
    data, path = numbers(grid), tmp_path / "data.nc"
    save_trajectories(data, path)
    assert load_rollout(path).grid.coordinates == grid.coordinates
    assert torch.equal(load_trajectories(path, grid).states, data.states)
    plain = replace(grid, coordinates={})
    save_trajectories(numbers(plain), path)
    assert load_rollout(path).grid.coordinates == {}


def test_data_must_lie_where_the_grid_does(tmp_path, caplog):
    grid, path = ocean(), tmp_path / "mine.nc"
    dataset = to_dataset(numbers(grid)).drop_attrs(deep=False)
    turned = dataset.isel(z=slice(None, None, -1))
    turned["z"] = turned["z"].astype("float32")
    turned.to_netcdf(path, engine="h5netcdf")
    assert torch.equal(load_trajectories(path, grid).states, numbers(grid).states)
    assert "z runs the other way" in caplog.text
    dataset.assign_coords(z=[1.0, 3.5, 9.0]).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(InputError, match=r"'z': got 9 in cell 2, expected 8.5, the grid's"):
        load_trajectories(path, grid)
    with pytest.raises(InputError, match=r"steps of 4, the grid's cells.*its coordinates"):
        load_trajectories(path, ocean(coordinates={}))
    dataset.drop_vars("z").to_netcdf(path, engine="h5netcdf")
    assert torch.equal(load_trajectories(path, grid).states, numbers(grid).states)


def test_latitudes_elsewhere_raise(tmp_path):
    """Without coordinates any start is taken, as ever; with them it is compared."""
    path = tmp_path / "south.nc"
    save_trajectories(numbers(sphere((-60.0, -20.0))), path)
    with pytest.raises(InputError, match="'lat': got -55 in cell 0, expected 25"):
        load_trajectories(path, sphere())
    assert load_trajectories(path, replace(sphere(), coordinates={})).steps == 2
