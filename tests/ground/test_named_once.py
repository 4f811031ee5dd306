"""What two things may not share: a name, a place, a unit."""

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import Grid, InputError, Mesh, Trajectories, downsample, load_trajectories
from zopde import save_trajectories as save

TRIANGLES = [[0, 1, 2], [1, 3, 2]]
SQUARE = [[0, 0], [1, 0], [0, 1], [1, 1.2]]


def grid_of(**more):
    return Grid((4, 4), (4.0, 4.0), 1.0, ("u",), dims=("lat", "lon"), **more)


@pytest.mark.parametrize("name", ["x", "time", "simulation", "weights", "a/b"])
def test_a_channel_is_not_called_as_a_coordinate_of_a_file(name):
    with pytest.raises(InputError, match="another name"):
        Grid((4, 4), (4.0, 4.0), 1.0, (name,))
    with pytest.raises(InputError, match="another name"):
        Mesh(SQUARE, 1.0, (name,), cells=TRIANGLES)


def test_a_forcing_channel_has_a_name_of_its_own():
    with pytest.raises(InputError, match="no channel of the state"):
        Grid((4, 4), (4.0, 4.0), 1.0, ("u",), ("u",))
    with pytest.raises(InputError, match="no channel of the state"):
        Mesh(SQUARE, 1.0, ("u",), cells=TRIANGLES, forcing_channels=("u",))


def test_arrays_with_named_dims_go_by_the_names():
    rows = xr.DataArray([1.0, 2.0, 3.0, 4.0], dims="lat")
    grid = grid_of(weights=rows)
    assert torch.allclose(grid.cell_weights[:, 0], torch.tensor([0.4, 0.8, 1.2, 1.6]).double())
    mask = xr.DataArray(np.tri(4, dtype=bool), dims=("lon", "lat"))
    assert torch.equal(grid_of(mask=mask).fluid, torch.from_numpy(np.tri(4, dtype=bool).T))
    other = xr.DataArray(np.tri(4, dtype=bool), dims=("j", "i"))  # no dim of the grid: by place
    assert torch.equal(grid_of(mask=other).fluid, torch.from_numpy(np.tri(4, dtype=bool)))
    with pytest.raises(InputError, match="dims"):
        grid_of(mask=xr.DataArray(np.tri(4, dtype=bool), dims=("lat", "i")))


def test_a_cell_is_there_once():
    with pytest.raises(InputError, match="2 times"):
        Mesh(SQUARE, 1.0, ("u",), cells=[*TRIANGLES, [2, 1, 0]])


@pytest.mark.parametrize("weight", [1e308, 5e-324])
def test_weights_whose_mean_is_no_number_are_refused(weight):
    with pytest.raises(InputError, match="weights"):
        grid_of(weights=np.full((4, 4), weight))
    with pytest.raises(InputError, match="weights"):
        Mesh(SQUARE, 1.0, ("u",), cells=TRIANGLES, weights=[weight] * 4)


@pytest.mark.parametrize("weights", [torch.full((4, 4), torch.nan), -torch.ones(4, 4)])
def test_a_mean_takes_weights_that_are_not_negative(weights):
    with pytest.raises(InputError, match="downsample weights"):
        downsample(torch.ones(1, 1, 4, 4), (2, 2), weights)


def test_the_weights_of_a_file_are_the_grids(tmp_path):
    rows = np.arange(1.0, 5.0)[:, None]
    grid, path = grid_of(weights=rows), tmp_path / "data.nc"
    save(Trajectories(grid, torch.rand(2, 3, 1, 4, 4)), path)
    assert load_trajectories(path, grid_of(weights=3 * rows)).simulations == 2
    for other in (grid_of(), grid_of(weights=rows[::-1])):
        with pytest.raises(InputError, match="data weights"):
            load_trajectories(path, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file["u"].attrs.update(units="km"), "units of u km"),
        (lambda file: file.update({"lat": file["lat"] + 10}), "lat"),
        (lambda file: file.update({"simulation": [1, 0]}), "simulation"),
    ],
)
def test_files_of_one_run_do_not_contradict_each_other(tmp_path, change, words):
    grid, states = grid_of(), torch.rand(2, 4, 1, 4, 4)
    save(Trajectories(grid, states), tmp_path / "whole.nc")
    with xr.open_dataset(tmp_path / "whole.nc", engine="h5netcdf") as file:
        whole = file.load().assign_coords(simulation=[0, 1])
    whole["u"].attrs["units"] = "m"
    first, second = whole.isel(time=slice(0, 2)), whole.isel(time=slice(2, None)).copy(deep=True)
    paths = [tmp_path / "a.nc", tmp_path / "b.nc"]
    first.to_netcdf(paths[0], engine="h5netcdf")
    second.to_netcdf(paths[1], engine="h5netcdf")
    assert torch.equal(load_trajectories(paths, grid).states, states)
    change(second)
    second.to_netcdf(paths[1], engine="h5netcdf")
    with pytest.raises(InputError, match=words):
        load_trajectories(paths, grid)


def test_other_cells_keep_the_ends_of_a_domain():
    depths = Grid((4,), (37.5,), 1.0, ("u",), coordinates={"x": [2.5, 7.5, 15.0, 30.0]})
    assert depths.with_shape((8,)).edges(0)[::8] == pytest.approx(depths.edges(0)[::4])
    with pytest.raises(InputError, match="elsewhere"):
        depths.with_shape((2,))
