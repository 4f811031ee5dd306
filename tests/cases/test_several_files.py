"""Several files as one data set: simulations side by side, or one run from file to file."""

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import Grid, InputError, load_config, load_trajectories
from zopde.progress import Silent
from zopde.studies.correct.open import open_correction, open_sample

GRID = Grid((4, 3), (4.0, 1.5), 2.0, ("T",), ("wind",), units={"time": "h"})
DAY = 12  # states of a day
DATES = ["2000-02-28", "2000-02-29", "2000-03-01"]
CALENDARS = ["standard", "proleptic_gregorian", "julian", "noleap", "all_leap", "360_day"]


@pytest.fixture
def run():
    """Three days of a model, one state every two hours."""
    draw = np.random.default_rng(0)
    fields = {n: (("time", "y", "x"), draw.normal(size=(3 * DAY, 4, 3))) for n in ("T", "wind")}
    return xr.Dataset(fields)


def written(folder, run, lengths, times_of):
    """Stretches of a run, each in a file of its own; the names of the files in that order."""
    names, first = [], 0
    for number, length in enumerate(lengths):
        part = run.isel(time=slice(first, first + length))
        part = part.assign_coords(time=("time", *times_of(first, length)))
        part.to_netcdf(folder / f"part{number}.nc", engine="h5netcdf")
        names, first = [*names, folder / f"part{number}.nc"], first + length
    return names


def since(date, unit="hours", size=2.0, calendar="standard", first=0):
    def times(start, length):
        attributes = {"units": f"{unit} since {date}", "calendar": calendar}
        return size * (start - first + np.arange(length)), attributes

    return times


def same(data, run):
    assert data.simulations == 1
    assert torch.equal(data.states[0, :, 0], torch.from_numpy(run["T"].values))
    assert torch.equal(data.forcing[0, :, 0], torch.from_numpy(run["wind"].values))


@pytest.mark.parametrize("calendar", CALENDARS)
def test_files_that_go_on_are_one_run_in_every_calendar(run, tmp_path, calendar):
    names = written(tmp_path, run, [7, 1, 20, 8], since("1850-01-01", calendar=calendar))
    same(load_trajectories(names, GRID), run)
    same(load_trajectories(tmp_path / "part*.nc", GRID), run)
    same(load_trajectories([str(name) for name in reversed(names)], GRID), run)


def test_files_that_count_from_dates_and_in_units_of_their_own(run, tmp_path):
    for number, (date, unit) in enumerate(zip(DATES, ("hours", "minutes", "days"), strict=True)):
        size = {"hours": 2.0, "minutes": 120.0, "days": 1 / 12}[unit]
        part = run.isel(time=slice(number * DAY, (number + 1) * DAY))
        times = since(date, unit, size)(0, DAY)
        part = part.assign_coords(time=("time", *times))
        part.to_netcdf(tmp_path / f"{date}.nc", engine="h5netcdf")
    same(load_trajectories(tmp_path / "2000-*.nc", GRID), run)
    (tmp_path / "2000-02-29.nc").unlink()
    with pytest.raises(InputError, match=r"a gap: .*01\.nc begins 26 after the end of .*28\.nc"):
        load_trajectories(tmp_path / "2000-*.nc", GRID)


def test_a_file_for_each_state(run, tmp_path):
    for number in range(5):
        one = run.isel(time=number).assign_coords(time=((), 2.0 * number, {"units": "h"}))
        one.to_netcdf(tmp_path / f"{number}.nc", engine="h5netcdf")
    same(load_trajectories(tmp_path / "[0-9].nc", GRID), run.isel(time=slice(5)))
    with pytest.raises(InputError, match="got 1 time, expected at least 2"):
        load_trajectories(tmp_path / "0.nc", GRID)


@pytest.mark.parametrize("timed", [True, False])
def test_files_of_the_same_times_or_of_none_are_simulations(run, tmp_path, timed):
    for number in range(3):
        part = run.isel(time=slice(number * DAY, (number + 1) * DAY))
        part = part.assign_coords(time=("time", 2.0 * np.arange(DAY), {"units": "h"}))
        part = part if timed else part.drop_vars("time")
        part.to_netcdf(tmp_path / f"member{number}.nc", engine="h5netcdf")
    names = [tmp_path / f"member{number}.nc" for number in (2, 0, 1)]
    data = load_trajectories(names, GRID)
    wanted = run["T"].values.reshape(3, DAY, 4, 3)[[2, 0, 1]]
    assert np.array_equal(data.states[:, :, 0], wanted)
    both = run.isel(time=slice(DAY)).expand_dims(simulation=2)
    both = both.assign_coords(time=("time", 2.0 * np.arange(DAY), {"units": "h"}))
    both = both if timed else both.drop_vars("time")
    both.to_netcdf(names[0], engine="h5netcdf")
    assert load_trajectories(names, GRID).simulations == 4


def hole(part):
    return part.isel(time=slice(2, None))


def back(part):
    return part.assign_coords(time=part["time"] - 2.0)


def double(part):
    return xr.concat([part, part], dim="simulation")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (hole, r"got a gap: .*part1\.nc begins 6 after the end of .*part0\.nc"),
        (back, r"got an overlap: .*part1\.nc begins 0 after the end of .*part0\.nc"),
        (lambda part: part.drop_vars("time"), r"got .*part1\.nc without times, and others with"),
        (double, r"part1\.nc: got 2 simulations, expected 1, as in the first"),
        (lambda part: part.isel(x=[0, 1]), r"part1\.nc: data 'T': got \(4, 2\) cells"),
        (lambda part: part.drop_vars("wind"), r"part1\.nc: data: .* a variable 'wind'"),
        (lambda part: part.isel(time=[0, 1, 3]), r"part1\.nc: data time: got 4 from time 1 to 2"),
        (lambda part: part.where(part["T"] < 1), r"part1\.nc: data 'T': got NaN"),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused_in_one_line(run, tmp_path, change, words):
    names = written(tmp_path, run, [6, 6], lambda a, n: (2.0 * np.arange(a, a + n), {"units": "h"}))
    with xr.open_dataset(names[1], engine="h5netcdf", decode_times=False) as file:
        part = file.load()
    change(part).to_netcdf(names[1], engine="h5netcdf")
    with pytest.raises(InputError, match=words) as caught:
        load_trajectories(names, GRID)
    assert "\n" not in str(caught.value)
    assert "delete" not in str(caught.value)


def test_dates_that_cannot_be_compared_and_lengths_that_differ_are_refused(run, tmp_path):
    names = written(tmp_path, run, [6, 6], since("2000-01-01"))
    for date, calendar in (("some day", "standard"), ("2000-01-01", "noleap")):
        part = run.isel(time=slice(6))
        part = part.assign_coords(time=("time", *since(date, calendar=calendar)(6, 6)))
        part.to_netcdf(names[1], engine="h5netcdf")
        with pytest.raises(InputError, match=r"got times since .*, expected one date"):
            load_trajectories(names, GRID)
    for number, length in enumerate((6, 5)):
        run.isel(time=slice(length)).to_netcdf(names[number], engine="h5netcdf")
    with pytest.raises(InputError, match=r"part1\.nc: got 5 times, expected 6, as in the first"):
        load_trajectories(names, GRID)


def test_no_file_and_an_empty_list_are_refused_and_a_name_may_have_brackets(run, tmp_path):
    for given, words in ((tmp_path / "no*.nc", "which no file fits"), ([], "got an empty list")):
        with pytest.raises(InputError, match=words):
            load_trajectories(given, GRID)
    run.to_netcdf(tmp_path / "run[1].nc", engine="h5netcdf")
    same(load_trajectories(tmp_path / "run[1].nc", GRID), run)


@pytest.mark.parametrize("kind", ["pattern", "list"])
def test_a_run_takes_files_by_its_settings(run, tmp_path, kind):
    (tmp_path / "mine.py").write_text(
        "from zopde import Grid\n\n\nclass Mine:\n"
        "    grid = Grid((4, 3), (4.0, 1.5), 2.0, ('T',), ('wind',), units={'time': 'h'})\n\n"
        "    def step(self, state, forcing):\n        return 0.5 * state + forcing\n"
    )
    names = list(map(str, written(tmp_path, run, [20, 16], since("1850-01-01"))))
    path = {"pattern": str(tmp_path / "part*.nc"), "list": names}[kind]
    changes = ["training.unroll=2", "corrector.sizes={width=2}", 'run.labels=["SRC"]']
    tables = {"solver": {"spec": f"{tmp_path / 'mine.py'}:Mine"}, "data": {"path": path}}
    config = load_config("quick", None, changes, tables)
    problem = open_correction(config, tmp_path / "out", Silent()).problem
    assert (problem.train.steps, problem.test.steps) == (26, 7)
    assert open_sample(config, tmp_path / "out", Silent()).split
    with pytest.raises(InputError, match=r"data\.path: got 3, expected a file, a pattern of names"):
        load_config("quick", None, [*changes, "data.path=3"])
