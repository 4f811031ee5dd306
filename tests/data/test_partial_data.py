"""Files whose states were measured in part: what is taken, what is refused, what is stepped."""

from math import nan

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import Grid, InputError, SolverError, load_trajectories
from zopde.data import Trajectories, Windows, first_steps

GRID = Grid((3, 4), (3.0, 4.0), 0.5, ("u", "v"), ("wind",))


@pytest.fixture
def measured():
    """(2 simulations, 9 times): whole at every fourth time, else a third of the cells."""
    draw = np.random.default_rng(0)
    fields = {name: draw.normal(size=(2, 9, 3, 4)) for name in ("u", "v", "wind")}
    missing = draw.random((2, 9, 3, 4)) < 0.7
    missing[:, ::4] = False
    for name in ("u", "v"):
        fields[name][missing] = nan
    return xr.Dataset({n: (("simulation", "time", "y", "x"), f) for n, f in fields.items()})


def read(dataset, path, partial=True):
    dataset.to_netcdf(path, engine="h5netcdf")
    return load_trajectories(path, GRID, partial=partial)


def test_states_may_be_in_part_if_one_says_so(measured, tmp_path):
    data = read(measured, tmp_path / "a.nc")
    assert torch.equal(data.states[:, :, 0].isnan(), torch.tensor(np.isnan(measured["u"].values)))
    assert data.whole.nonzero().tolist() == [[s, t] for s in (0, 1) for t in (0, 4, 8)]
    with pytest.raises(InputError, match=r"data 'u'.*data.partial=true"):
        read(measured, tmp_path / "a.nc", partial=False)


def test_scales_are_of_what_was_measured(measured, tmp_path):
    data = read(measured, tmp_path / "a.nc")
    known = [measured[name].values for name in ("u", "v")]
    wanted = [np.std(values[~np.isnan(values)], ddof=1) for values in known]
    torch.testing.assert_close(data.state_scale(), torch.tensor(wanted))
    assert bool(data.forcing_scale().isfinite().all())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("wind", nan, "data 'wind': got NaN"),  # what drives a step is known or there is no step
        ("u", np.inf, "data 'u': got NaN or infinity"),
        ("u", 1e20, "fill value"),
    ],
)
def test_what_cannot_be_is_refused_also_in_part(name, value, words, measured, tmp_path):
    measured[name][1, 4, 2, 2] = value
    with pytest.raises(InputError, match=words):
        read(measured, tmp_path / "a.nc")


def test_whole_states_alone_are_stepped(measured, tmp_path):
    data, asked = read(measured, tmp_path / "a.nc"), []

    class Solver:
        grid = GRID

        def step(self, state, forcing):
            asked.append(state.clone())
            return state + forcing

    stepped = first_steps(Solver(), data, chunk=3, partial=True)
    assert torch.equal(torch.cat(asked), data.states[:, [0, 4]].flatten(0, 1))
    assert torch.equal(stepped[:, [0, 4]], data.states[:, [0, 4]] + data.forcing[:, [0, 4]])
    assert bool(stepped[:, [1, 2, 3, 5, 6, 7]].isnan().all())
    with pytest.raises(SolverError, match="stored state 1,"):
        first_steps(Solver(), data)  # NaN that nobody has announced


def starts(data, unroll):
    stepped = torch.where(data.whole[:, :-1, None, None, None], data.states[:, :-1], nan)
    windows = Windows(data, stepped, unroll, 1, 0)
    return sorted(float(windows.batch(i).initial[0, 0, 0, 0]) for i in range(windows.per_epoch))


def test_windows_start_at_whole_states_that_a_measurement_follows(measured, tmp_path):
    data = read(measured, tmp_path / "a.nc")
    data.states[1, 5:8] = nan  # behind the state at time 4 nothing for three steps
    at = {(s, t): float(data.states[s, t, 0, 0, 0]) for s in (0, 1) for t in (0, 4)}
    assert starts(data, 4) == sorted(at.values())
    assert starts(data, 3) == sorted(value for place, value in at.items() if place != (1, 4))


def test_late_observations_need_windows_that_reach_them(measured, tmp_path):
    data = read(measured, tmp_path / "a.nc")
    late = Trajectories(GRID, torch.where(data.whole[:, :, None, None, None], data.states, nan))
    assert len(starts(late, 4)) == 4
    with pytest.raises(InputError, match=r"4 of 16 whole, and none .* within 3 steps"):
        starts(late, 3)
    with pytest.raises(InputError, match="0 of 16 whole"):
        starts(Trajectories(GRID, late.states.roll(1, 1)[:, 1:4].repeat(1, 3, 1, 1, 1) * nan), 1)


def test_a_channel_of_which_nothing_was_measured_has_no_scale():
    grid = Grid((4,), (1.0,), 0.1, ("u", "v"))
    states = torch.rand(2, 3, 2, 4)
    states[:, :, 1] = torch.nan
    with pytest.raises(InputError, match="'v': got 0 measured numbers to learn from"):
        Trajectories(grid, states).state_scale()
