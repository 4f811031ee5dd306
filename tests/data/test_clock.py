"""Forcing channels that are no fields of the solver: clocks, numbers of a run, in one type."""

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import CorrectedSolver, Grid, InputError, Normalised, load_trajectories, rollout
from zopde.data import clock_channels, from_dataset
from zopde.data.deviations import constant_channels


class Halving:
    """u' = u / 2."""

    grid = Grid((4,), (4.0,), 1.0, ("u",))

    def step(self, state, forcing=None):
        return state / 2


@pytest.mark.parametrize(
    ("units", "begins"),
    [
        ("hours", 0.0),
        ("minutes", 0.0),
        ("hours since 1970-01-01 03:00", 3.0),
        ("days since 1970-01-02", 24.0),
        ("datetime", 24 * 3 + 6.0),
    ],
)
def test_clocks_by_their_formula_golden(units, begins):
    """The grid counts hours, whatever the file counts."""
    names = clock_channels([24.0, 86164.0905])
    assert names == ("sin 24", "cos 24", "sin 86164.0905", "cos 86164.0905")
    grid = Grid((2,), (1.0,), 0.5, ("u",), names, units={"time": "h"})
    hours = 0.5 * np.arange(9)
    word = units.split()[0]
    times = hours * {"hours": 1, "minutes": 60, "days": 1 / 24, "datetime": 1}[word]
    if word == "datetime":
        dates = np.datetime64("1970-01-04T06:00") + (60 * hours).astype("m8[m]")
        time = ("time", dates.astype("M8[ns]"))
    else:
        time = ("time", times, {"units": units})
    states = np.random.default_rng(0).random((9, 2))
    found = from_dataset(xr.Dataset({"u": (("time", "x"), states)}, {"time": time}), grid)
    angle = 2 * np.pi * (begins + hours) / 24.0
    for channel, wave in enumerate((np.sin(angle), np.cos(angle))):
        expected = torch.from_numpy(wave)[:, None].expand(9, 2)
        torch.testing.assert_close(found.forcing[0, :, channel], expected)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_states_what_is_told_and_clocks_are_of_one_type_exact(kind, tmp_path):
    """Also where a file has wider numbers, or whole ones; a network then takes them as they are."""
    names = ("rate", "age", "open", "sin 8", "cos 8")
    grid = Grid((4,), (4.0,), 1.0, ("u",), names)
    told = {"rate": np.array([0.1, 0.7]), "age": np.array([3, 40]), "open": np.array([True, False])}
    states = np.random.default_rng(0).random((2, 6, 4)).astype(kind)
    data = xr.Dataset(
        {"u": (("simulation", "time", "x"), states)}
        | {name: ("simulation", values) for name, values in told.items()},
        {"time": np.arange(6.0)},
    )
    data.to_netcdf(tmp_path / "mine.nc", engine="h5netcdf")
    found = load_trajectories(tmp_path / "mine.nc", grid)
    assert found.states.dtype == found.forcing.dtype == torch.from_numpy(states).dtype
    for channel, values in enumerate(told.values()):
        assert found.forcing[:, 3, channel, 1].tolist() == values.astype(kind).tolist()
    wave = np.sin(2 * np.pi * np.arange(6.0) / 8).astype(kind)
    assert found.forcing[1, :, 3, 2].tolist() == wave.tolist()
    body = torch.nn.Conv1d(6, 1, 1).to(found.states.dtype)
    scales = found.state_scale(), found.forcing_scale()
    network = Normalised(body, *scales, 1, told=dict.fromkeys(names, 0.0))
    corrected = CorrectedSolver(Halving(), network)
    states = rollout(corrected, found.states[:, 0], 5, lambda t: found.forcing[:, t])
    assert states.dtype == found.states.dtype


def test_a_number_too_large_for_the_type_of_the_states_is_refused():
    grid = Grid((2,), (1.0,), 0.5, ("u",), ("rate",))
    states = np.random.default_rng(0).random((9, 2)).astype("f4")
    data = xr.Dataset({"u": (("time", "x"), states), "rate": ("time", np.full(9, 1e300))})
    with pytest.raises(InputError, match="data 'rate': got NaN or infinity"):
        from_dataset(data, grid)


def test_a_clock_needs_times():
    grid = Grid((2,), (1.0,), 0.5, ("u",), clock_channels([24.0]))
    data = xr.Dataset({"u": (("time", "x"), np.random.default_rng(0).random((9, 2)))})
    with pytest.raises(InputError, match=r"data: got no times, expected times.*sin 24"):
        from_dataset(data, grid)


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("begin", [0.0, 4e4])
def test_clocks_that_stand_still_are_constant_exact(kind, begin):
    """A sine of round-off, and a year that is seen for eight hours a day long after its begin."""
    names = (*clock_channels([1.0, 0.5, 1e9]), "rate", "tiny")
    grid = Grid((2,), (1.0,), 0.5, ("u",), names)
    states = np.random.default_rng(0).random((17, 2)).astype(kind)
    told = {"rate": ("time", 1e5 + 1e-4 * np.arange(17.0)), "tiny": ("time", np.full(17, 1e-9))}
    told["tiny"][1][3] = 2e-9
    times = {"time": begin + 0.5 * np.arange(17)}
    data = from_dataset(xr.Dataset({"u": (("time", "x"), states)} | told, times), grid)
    still = ["sin 1", "sin 0.5", "cos 0.5", "sin 1000000000", "cos 1000000000", "rate"]
    assert constant_channels(grid, data.forcing, names) == still
    scales = dict(zip(names, data.forcing_scale().tolist(), strict=True))
    assert [scales[name] for name in still[:5]] == [1.0] * 5
    assert scales["rate"] == pytest.approx(1e5)
    assert scales["tiny"] == pytest.approx(1e-9 * (16 / 17**2 * 34 / 33) ** 0.5, rel=1e-3)
