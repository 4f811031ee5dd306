"""What lies outside of the mask never passes the border of a solver."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
import xarray as xr
from toy_land import Basin

from zopde import BlackBox, Dropping, Grid, OneAtATime, Retrying, SolverError
from zopde.blackbox import Filled, failures_of
from zopde.errors import InputError
from zopde.grid import as_grid
from zopde.solvers.callable import PythonFunction

MASK = np.array([[True, True, False], [True, True, True]])


def grid(**more):
    return Grid((2, 3), (2.0, 3.0), 0.1, ("u",), ("f",), mask=MASK, **more)


class Picky:
    """Answers NaN on land; refuses any NaN that it is given, and a state of negative numbers."""

    grid = grid()

    def step(self, state, forcing=None):
        assert state.isfinite().all()
        assert forcing.isfinite().all()
        assert state[..., ~self.grid.fluid].eq(0).all()
        if (state < 0).any():
            raise SolverError("below zero")
        return torch.where(self.grid.fluid, state + forcing, torch.nan)


def fields():
    state = torch.rand(3, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    return torch.where(torch.tensor(MASK), state, torch.nan)


@pytest.mark.parametrize("border", [BlackBox, Filled, lambda s: BlackBox(OneAtATime(s))])
def test_a_solver_sees_zero_on_land_and_so_does_who_asks_exact(border):
    state = fields()
    stepped = border(Picky()).step(state, state)
    assert torch.equal(stepped, torch.where(torch.tensor(MASK), 2 * state, 0.0))


def test_states_that_fail_are_told_apart_from_land_exact():
    state = fields()
    state[1, 0, 0, 0] = -1.0
    box = Retrying(BlackBox(OneAtATime(Picky())), times=0)
    stepped = Dropping(box).step(state.nan_to_num(), state.nan_to_num())
    assert stepped[[0, 2]].isfinite().all()
    assert stepped[1].isnan().any()
    assert failures_of(box) == {"below zero": 1}


def plus(state, forcing):
    """A user's function of NumPy arrays."""
    return np.where(MASK, state + forcing, np.nan)


@pytest.mark.parametrize("batched", [False, True])
def test_a_function_may_answer_nan_on_land(batched):
    solver, state = PythonFunction(plus, grid(), batched=batched), grid().filled(fields())
    assert torch.allclose(BlackBox(solver).step(state, state), 2 * state)


def test_a_table_names_files_of_mask_and_weights(tmp_path):
    table = {**asdict(grid()), "mask": "land.nc", "weights": "land.nc"}
    weights = np.arange(1.0, 7).reshape(2, 3)
    file = xr.Dataset({"mask": (("y", "x"), MASK), "weights": (("y", "x"), weights)})
    file.to_netcdf(tmp_path / "land.nc", engine="h5netcdf")
    assert as_grid(table, tmp_path) == grid(weights=weights)
    file.drop_vars("mask").to_netcdf(tmp_path / "land.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=r"grid mask: got .*land\.nc without it, expected a var"):
        as_grid(table, tmp_path)
    assert json.loads(json.dumps(asdict(Basin((8, 12)).grid)))["mask"][0][10] is False
