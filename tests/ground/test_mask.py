"""Cells that are no fluid, and cells that count more than others."""

import json
import pickle
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

import zopde
from zopde.data import Trajectories, load_rollout, load_trajectories, save_trajectories
from zopde.data.trajectories import to_dataset
from zopde.errors import InputError
from zopde.grid import as_grid
from zopde.identity import content_of

ISLAND = np.array([[1, 1, 1, 0], [1, 0, 1, 1]], dtype=bool)


def grid(mask=ISLAND, shape=(2, 4), **more):
    return zopde.Grid(shape, (1.0, 2.0), 0.1, ("u", "T"), mask=mask, **more)


def test_a_mask_is_plain_values_that_compare_and_serialise():
    one, tables = grid(), asdict(grid())
    assert one == grid(torch.tensor(ISLAND)) == grid(ISLAND.astype(int).tolist())
    assert one != grid(~ISLAND)
    assert as_grid(json.loads(json.dumps(tables))) == one == replace(one, dt=0.1)
    assert grid(np.ones((2, 4), dtype=bool)) == grid(None)
    assert (one.fluid_cells, grid(None).fluid_cells) == (6, 8)


def test_who_a_solver_is_depends_on_its_mask_and_not_on_having_none():
    solvers = [SimpleNamespace(grid=one) for one in (grid(None), grid(), grid(ISLAND[::-1]))]
    assert len({content_of("", {}, solver) for solver in solvers}) == 3
    assert repr(grid(None)) == repr(grid()).partition("mask")[0]
    assert pickle.dumps(grid()) == pickle.dumps(grid(grid().fluid))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mask": ISLAND[:, :3]}, r"grid mask: got shape \(2, 3\), expected the grid's \(2, 4\)"),
        ({"mask": [[True], [True, False]]}, "grid mask: got no array"),
        ({"mask": np.zeros((2, 4))}, "grid mask: got other values, or no fluid"),
        ({"mask": np.full((2, 4), np.nan)}, "grid mask: got other values, or no fluid"),
        ({"weights": np.ones(3)}, r"grid weights: got shape \(3,\)"),
        ({"weights": np.array([[1.0], [0.0]])}, "grid weights: got 0 to 1, expected finite"),
        ({"channels": ("mask",)}, "grid: got a channel 'mask'"),
    ],
)
def test_a_bad_mask_raises(more, message):
    with pytest.raises(InputError, match=message):
        replace(grid(), **more)


def test_fields_on_the_fluid_alone_exact():
    field = torch.arange(16.0).view(2, 2, 4)
    one = grid()
    assert one.filled(field * torch.nan).isnan().sum() == 12
    assert one.filled(field)[0].tolist() == [[0, 1, 2, 0], [4, 0, 6, 7]]
    assert one.fluid_values(field)[0].tolist() == [0, 1, 2, 4, 6, 7]
    assert grid(None).filled(field) is field
    means = (field * one.cell_weights).float().mean(dim=(1, 2))
    assert torch.allclose(means, one.fluid_values(field).mean(dim=1))


def test_weights_of_a_sphere_exact():
    latitudes = np.deg2rad([0.0, 60.0])
    one = grid(weights=np.cos(latitudes)[:, None])
    expected = np.where(ISLAND, [[1.0], [0.5]], 0)
    assert np.allclose(one.cell_weights, expected / expected.mean())


def test_other_resolutions_keep_the_domain_exact():
    coarse, fine = grid().with_shape((1, 2)), grid().with_shape((4, 4))
    assert coarse.mask is None  # three and three of four cells are fluid
    assert np.array_equal(fine.mask, ISLAND.repeat(2, axis=0))
    assert grid(weights=np.arange(1.0, 9).reshape(2, 4)).with_shape((1, 2)).weights == ((2, 4.5),)
    shore = grid(np.array([[1, 0, 0, 0], [1, 0, 0, 1]])).with_shape((1, 2))
    assert shore.mask == ((True, False),)
    with pytest.raises(InputError, match="got 4 cells cut into 3, expected a multiple"):
        grid().with_shape((2, 3))


def with_land(one, land):
    numbers = torch.rand(3, 4, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    return Trajectories(one, torch.where(torch.tensor(ISLAND), numbers, land))


def test_values_on_land_never_count(tmp_path):
    one, path = grid(), tmp_path / "data.nc"
    data = with_land(one, 1e6)
    exact = one.fluid_values(data.states).transpose(0, 2).flatten(1).std(dim=1)
    assert torch.equal(data.state_scale(), exact)
    save_trajectories(data, path)
    with xr.open_dataset(path, engine="h5netcdf") as file:
        assert np.array_equal(file["mask"], ISLAND)
        assert np.array_equal(np.isnan(file["u"]).any(dim=("simulation", "time")), ~ISLAND)
    loaded = load_trajectories(path, one)
    assert torch.equal(loaded.states, with_land(one, 0.0).states)
    with pytest.raises(InputError, match=r"NaN or infinity.*by the mask of the grid"):
        load_trajectories(path, grid(None))
    with pytest.raises(InputError, match="data mask: got another one, expected the grid's"):
        load_trajectories(path, grid(np.array([[1, 1, 1, 0], [0, 0, 1, 1]])))


def test_data_of_a_user_may_hold_anything_on_land(tmp_path):
    one, path = grid(), tmp_path / "mine.nc"
    for land in (np.nan, -9999.0, 0.0):
        dataset = to_dataset(with_land(grid(None), land)).drop_attrs(deep=False)
        dataset["u"].attrs["valid_min"] = 1e-9
        dataset.isel(y=slice(None, None, -1)).to_netcdf(path, engine="h5netcdf")
        loaded = load_trajectories(path, one)
        assert torch.equal(loaded.states, with_land(one, 0.0).states)
    fluid = with_land(one, 0.0)
    fluid.states[1, 2, 0, 0, 1] = torch.nan
    save_trajectories(fluid, path)
    with pytest.raises(InputError, match=r"first at \(1, 2, 0, 1\), 1 values in all"):
        load_trajectories(path, one)


def test_a_rollout_file_brings_mask_and_weights_back(tmp_path):
    one = grid(weights=np.arange(1.0, 9).reshape(2, 4))
    save_trajectories(with_land(one, 3.0), tmp_path / "rollout.nc")
    found = load_rollout(tmp_path / "rollout.nc")
    assert (found.grid.mask, found.grid.weights) == (one.mask, one.weights)
    assert torch.equal(found.states, with_land(one, 0.0).states)
