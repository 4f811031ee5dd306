"""Reference data that other programs wrote: brought to the grid, or refused in one line."""

import datetime
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import Grid, InputError, load_trajectories
from zopde.data import from_dataset

GRID = Grid((4, 3), (4.0, 1.5), 0.2, ("tracer",))
STEPS = 7


@pytest.fixture
def states():
    gen = torch.Generator().manual_seed(3)
    return torch.rand(2, STEPS, 1, 4, 3, generator=gen)


@pytest.fixture
def dataset(states):
    """As a user writes it: float32, times in the grid's unit, cell centres."""
    return xr.Dataset(
        {"tracer": (("simulation", "time", "y", "x"), states[:, :, 0].numpy())},
        {"time": 0.2 * np.arange(STEPS), "y": np.arange(4) + 0.5, "x": 0.5 * np.arange(3) + 0.25},
    )


def loaded(dataset, path, **how):
    dataset.to_netcdf(path, **{"engine": "h5netcdf", **how})
    return load_trajectories(path, GRID).states


def since(units, steps=STEPS, step=0.2, dtype=np.float64, first=0.0, **attributes):
    return ("time", (first + step * np.arange(steps)).astype(dtype), {"units": units, **attributes})


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT"])
def test_classic_files_exact(dataset, states, tmp_path, form):
    found = loaded(dataset, tmp_path / "mine.nc", engine="scipy", format=form)
    assert torch.equal(found, states)
    assert found.dtype == torch.float32
    found = loaded(dataset.astype(np.float64), tmp_path / "mine.nc", engine="scipy", format=form)
    assert torch.equal(found, states.double())


def test_a_file_that_cannot_be_read_is_never_to_be_deleted(dataset, tmp_path):
    path = tmp_path / "mine.nc"
    dataset.to_netcdf(path, engine="scipy")
    whole = path.read_bytes()
    for content in (whole[:-30], whole[:60], b"CDF\x05" + whole[4:], b"", b"GRIB", whole[1:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"mine\.nc: got unreadable") as caught:
            load_trajectories(path, GRID)
        assert "delete" not in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"CDF\x05" + whole[4:])
    with pytest.raises(InputError, match=r"nccopy -k nc4 old.nc new.nc"):
        load_trajectories(path, GRID)


@pytest.mark.parametrize(
    "time",
    [
        since("seconds since 2000-01-01"),
        since("seconds since 2000-01-01 00:00:00", first=1e9),
        since("s since 1-1-1", calendar="noleap"),
        since("days since 1850-01-01", step=0.2 / 86400, first=60_000.0),
        since("days since 1850-01-01", step=0.2 / 86400, calendar="360_day"),
        since("hours since 2000-01-01", step=0.2 / 3600),
        since("minutes since 2000-01-01", step=0.2 / 60),
        since("milliseconds since 2000-01-01", step=200, dtype=np.int64),
        since("ms", step=200.0),
        since("seconds"),
        since("s", dtype=np.float32),
        since("1"),
        since(""),
        since("acoustic units"),
    ],
    ids=lambda time: f"{time[2]['units']} {time[1].dtype}",
)
def test_times_of_every_unit_are_seconds(dataset, states, tmp_path, time):
    path = tmp_path / "mine.nc"
    plain = dataset.drop_vars("time")
    # Written as it stands: xarray would choose units of its own.
    assert torch.equal(loaded(plain.assign_coords(time=time), path), states)
    long = (time[0], time[1] * 1.25, time[2])
    with pytest.raises(InputError, match=r"data time: got steps of 0\.25, expected 0\.2"):
        loaded(plain.assign_coords(time=long), path)


class Date360:
    """A date of a calendar that datetime does not know, as cftime has them."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __sub__(self, other):
        return datetime.timedelta(seconds=self.seconds - other.seconds)


@pytest.mark.parametrize("kind", ["dates", "spans", "cftime"])
def test_dates_in_memory_are_seconds(dataset, states, kind):
    steps = 200 * np.arange(STEPS)
    times = {
        "dates": np.datetime64("2000-02-28T23:59:59.5", "ns") + steps.astype("timedelta64[ms]"),
        "spans": steps.astype("timedelta64[ms]").astype("timedelta64[ns]"),
        "cftime": np.array([Date360(0.2 * i) for i in range(STEPS)], dtype=object),
    }[kind]
    dataset = dataset.drop_vars("time").assign_coords(time=("time", times))
    assert torch.equal(from_dataset(dataset, GRID).states, states)
    with pytest.raises(InputError, match=r"steps of 0.2, expected 0.1"):
        from_dataset(dataset, replace(GRID, dt=0.1))


def test_the_grids_own_unit_of_time_counts(dataset, states):
    grid = replace(GRID, dt=2.0, units={"time": "hours"})
    for time in (since("h since 1970-1-1", step=2), since("hours", step=2), since("s", step=7200)):
        given = dataset.drop_vars("time").assign_coords(time=time)
        assert torch.equal(from_dataset(given, grid).states, states)
    months = dataset.drop_vars("time").assign_coords(time=since("months since 1970-1-1"))
    with pytest.raises(InputError, match="units of a fixed length"):
        from_dataset(months, grid)


GAPS = [
    ([0, 1, 2, 5, 6, 7, 8], "got 0.6 from time 2 to 3, and 0.2 elsewhere"),
    ([0, 2, 3, 4, 5, 6, 7], "got 0.4 from time 0 to 1"),
    ([0, 1, 2, 3, 4, 5, 9], "got 0.8 from time 5 to 6"),
    ([0, 1, 2, 2, 3, 4, 5], "got 0 from time 2 to 3"),
    ([0, 1, 2, 1, 2, 3, 4], "got -0.2 from time 2 to 3"),
    ([0, 1, 2, np.nan, 4, 5, 6], "got nan from time 2 to 3"),
    ([6, 5, 4, 3, 2, 1, 0], "got steps of -0.2, expected 0.2"),
    ([0, 2, 4, 6, 8, 10, 12], "got steps of 0.4, expected 0.2"),
]


@pytest.mark.parametrize(("times", "words"), GAPS)
def test_every_time_counts(dataset, tmp_path, times, words):
    gap = dataset.assign_coords(time=0.2 * np.array(times))
    with pytest.raises(InputError, match="data time: ") as caught:
        loaded(gap, tmp_path / "mine.nc")
    assert words in str(caught.value)


def test_times_too_coarse_to_tell_are_refused(dataset, tmp_path):
    coarse = since("days since 1850-01-01", step=0.2 / 86400, first=60_000.0, dtype=np.float32)
    with pytest.raises(InputError, match=r"float32, which tells no steps of 0.2 apart"):
        loaded(dataset.drop_vars("time").assign_coords(time=coarse), tmp_path / "mine.nc")
    words = ("time", np.array([f"2000-01-0{i}" for i in range(STEPS)]))
    with pytest.raises(InputError, match="expected numbers or dates"):
        loaded(dataset.drop_vars("time").assign_coords(time=words), tmp_path / "mine.nc")


@pytest.mark.parametrize("dims", [["y"], ["x"], ["y", "x"]])
def test_descending_coordinates_are_turned_round_exact(dataset, states, tmp_path, dims, caplog):
    turned = dataset.isel({dim: slice(None, None, -1) for dim in dims})
    assert torch.equal(loaded(turned, tmp_path / "mine.nc"), states)
    assert [f"{dim} runs the other way" in caplog.text for dim in ("y", "x")] == [
        d in dims for d in "yx"
    ]


def test_coordinates_that_only_count_or_are_not_there(dataset, states, tmp_path):
    path = tmp_path / "mine.nc"
    counted = dataset.assign_coords(y=np.arange(4), x=np.arange(1, 4))
    assert torch.equal(loaded(counted, path), states)
    assert torch.equal(loaded(counted.isel(x=slice(None, None, -1)), path), states)
    assert torch.equal(loaded(dataset.drop_vars(["time", "y", "x"]), path), states)
    shifted = dataset.assign_coords(x=(dataset["x"] + 1e4).astype(np.float32))
    assert torch.equal(loaded(shifted, path), states)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([0.5, 1.5, 2.5], "got 0.5, then 1.5, expected steps of 0.5, the grid's cells"),
        ([0.25, 0.75, 1.75], "got 0.75, then 1.75"),
        ([0.25, 1.25, 0.75], "got 0.25, then 1.25"),
        ([0.75, 0.25, 0.75], "got 0.25, then 0.75"),
        ([250.0, 750.0, 1250.0], "expected steps of 0.5"),
        ([np.nan, 0.75, 1.25], "got nan"),
        ([0, 2, 4], "got 0, then 2"),
        (["a", "b", "c"], "expected numbers"),
    ],
)
def test_coordinates_that_contradict_the_grid_are_refused(dataset, x, words):
    with pytest.raises(InputError, match="data coordinate 'x'") as caught:
        from_dataset(dataset.assign_coords(x=x), GRID)
    assert words in str(caught.value)


FILLS = [1e20, 9.969209968386869e36, 1e30, 1e35, -1e34, 1e15, -9999.0, -999.0, -32767.0, 3.4e38]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_fill_values_that_nobody_marked_are_refused(dataset, tmp_path, fill, kind):
    dataset = dataset.astype(kind)
    dataset["tracer"][:, :, 1, 1:] = fill
    for base in (0.0, 250.0):
        some = (dataset + base).where(dataset["tracer"] != kind(fill), kind(fill))
        some["tracer"].encoding["_FillValue"] = None
        with pytest.raises(
            InputError, match=r"data 'tracer': got .* in 28 places, else "
        ) as caught:
            loaded(some, tmp_path / "mine.nc")
        assert f"{kind(fill):g} in" in str(caught.value)
        assert "_FillValue" in str(caught.value)


@pytest.mark.parametrize("fill", [1e20, 9.969209968386869e36])
def test_a_fill_value_beside_zeros_alone_is_refused(dataset, fill):
    dataset["tracer"][:] = 0
    dataset["tracer"][:, :, 1] = fill
    with pytest.raises(InputError, match=r"got .* places, else 0 to 0"):
        from_dataset(dataset, GRID)
    dataset["tracer"][:] = 9.969209968386869e36
    with pytest.raises(InputError, match="places, and nothing else"):
        from_dataset(dataset, GRID)


def test_large_numbers_that_are_values_are_taken(dataset):
    """Densities near 1e20, a pressure beside -9999, a front of two constant states."""
    for values in (1e20 * dataset, -9999.0 * dataset, 1e5 + 0 * dataset):
        assert from_dataset(values, GRID).states.isfinite().all()
    dataset["tracer"][:] = 1e20 * np.linspace(0, 1, 4)[:, None]
    assert from_dataset(dataset, GRID).states.max() > 9e19
    dataset["tracer"][:] = 0
    dataset["tracer"][:, :, 2:] = 1000
    assert from_dataset(dataset, GRID).states.max() == 1000


def test_marked_fill_values_are_refused_as_what_they_are(dataset, tmp_path):
    dataset["tracer"][1, 3, 2, 1] = np.nan
    dataset["tracer"].encoding["_FillValue"] = 1e20
    for engine in ("h5netcdf", "scipy"):
        with pytest.raises(InputError, match=r"first at \(1, 3, 2, 1\), 1 value") as caught:
            loaded(dataset, tmp_path / "mine.nc", engine=engine)
        assert "_FillValue" in str(caught.value)


def test_packed_numbers_are_unpacked(dataset, states, tmp_path):
    dataset["tracer"].encoding.update(
        dtype="i2", scale_factor=1e-4, add_offset=0.5, _FillValue=-32768
    )
    found = loaded(dataset, tmp_path / "mine.nc")
    torch.testing.assert_close(found.float(), states, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["Time", "t", "TIME", "T"])
def test_other_names_of_time_and_one_simulation_exact(dataset, states, tmp_path, name):
    path = tmp_path / "mine.nc"
    assert torch.equal(loaded(dataset.rename(time=name), path), states)
    assert torch.equal(loaded(dataset.isel(simulation=0), path), states[:1])
    wrf = dataset.isel(simulation=1, drop=True).rename(time=name)
    assert torch.equal(loaded(wrf, path), states[1:])
    assert torch.equal(loaded(wrf.transpose("x", name, "y"), path), states[1:])
    beside = wrf.drop_vars(name).assign_coords(time=(name, 0.2 * np.arange(STEPS)))
    assert torch.equal(loaded(beside, path), states[1:])
    with pytest.raises(InputError, match="data time"):
        loaded(beside.assign_coords(time=(name, 0.3 * np.arange(STEPS))), path)


def test_a_remedy_is_named_for_other_dims(dataset):
    refused = [
        (dataset.rename(y="lat", x="lon"), '.rename(lat="y", lon="x")'),
        (dataset.rename(simulation="member"), '.rename(member="simulation")'),
        (dataset.expand_dims("z"), ".isel(z=0)"),
        (dataset.isel(simulation=0).rename(x="lon"), '.rename(lon="x").expand_dims("simulation")'),
        (dataset.rename(time="Time", simulation="t"), "expected ('simulation', 'time', 'y', 'x')"),
        (dataset.expand_dims(z=2), "expected ('simulation', 'time', 'y', 'x')"),
    ]
    for given, words in refused:
        with pytest.raises(InputError, match="data 'tracer': got dims") as caught:
            from_dataset(given, GRID)
        assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["i4", "?", "c8", "S1", "O"])
def test_what_is_no_real_number_is_refused(dataset, kind):
    dataset["tracer"] = dataset["tracer"].astype(kind)
    with pytest.raises(InputError, match="expected real numbers"):
        from_dataset(dataset, GRID)
