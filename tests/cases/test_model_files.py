"""Files as models of the atmosphere and the ocean leave them: names, land, things beside."""

import sys
from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import torch
import xarray as xr

from zopde import Grid, InputError, load_trajectories
from zopde.cli.app import _run
from zopde.data import from_dataset

MASK = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=bool)
WET = xr.DataArray(MASK, dims=("y", "x"))
GRID = Grid((4, 3), (4.0, 1.5), 0.2, ("T",), ("wind",))
OCEAN = Grid((4, 3), (4.0, 1.5), 0.2, ("T",), ("wind",), mask=MASK)
STEPS = 7


@pytest.fixture
def flow():
    """What the grid expects, one run without a dim of simulations."""
    draw = np.random.default_rng(0).normal
    dims = ("time", "y", "x")
    fields = {name: (dims, draw(size=(STEPS, 4, 3)).astype("f4")) for name in ("T", "wind")}
    places = {"time": 0.2 * np.arange(STEPS), "y": np.arange(4) + 0.5, "x": 0.5 * np.arange(3)}
    return xr.Dataset(fields, places)


def loaded(dataset, path, grid=GRID, names=None, **how):
    dataset.to_netcdf(path, **{"engine": "h5netcdf", **how})
    return load_trajectories(path, grid, None, names)


def same(data, flow):
    assert torch.equal(data.states[0, :, 0], torch.from_numpy(flow["T"].values.copy()))
    assert torch.equal(data.forcing[0, :, 0], torch.from_numpy(flow["wind"].values.copy()))


WRF = {"Time": "time", "south_north": "y", "west_east": "x"}
CMIP = {"lat": "y", "lon": "x", "tas": "T", "ua": "wind"}
NEMO = {"time_counter": "time", "votemper": "T", "sozotaux": "wind"}
ROMS = {"ocean_time": "time", "eta_rho": "y", "xi_rho": "x"}


@pytest.mark.parametrize("names", [WRF, CMIP, NEMO, ROMS])
@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_names_of_models_are_mapped_exact(flow, tmp_path, names, engine):
    theirs = flow.rename({ours: own for own, ours in names.items()})
    same(loaded(theirs, tmp_path / "mine.nc", GRID, names, engine=engine), flow)


def test_times_beside_a_dim_without_coordinates_are_mapped(flow, tmp_path):
    """WRF: the dim Time has no coordinate, XTIME holds the minutes."""
    minutes = ("Time", 0.2 / 60 * np.arange(STEPS), {"units": "minutes since 2000-01-01"})
    wrf = flow.drop_vars("time").rename(time="Time").assign(XTIME=minutes)
    names = {"XTIME": "time", "Time": "time"}
    same(loaded(wrf, tmp_path / "mine.nc", GRID, names), flow)
    wrf["XTIME"] = wrf["XTIME"] * 2
    wrf["XTIME"].attrs["units"] = "minutes since 2000-01-01"
    with pytest.raises(InputError, match=r"data time: got steps of 0\.4, expected 0\.2"):
        loaded(wrf, tmp_path / "mine.nc", GRID, names)


def test_a_coordinate_of_another_name_is_the_dims(flow, tmp_path):
    lat = flow.drop_vars("y").assign_coords(lat=("y", flow["y"].values[::-1]))
    turned = flow.isel(y=slice(None, None, -1))
    same(loaded(lat, tmp_path / "mine.nc", GRID, {"lat": "y"}), turned)
    rows = lat.rename_dims(y="row")
    for names in ({"lat": "y", "row": "y"}, {"row": "y", "lat": "y"}):
        same(loaded(rows, tmp_path / "mine.nc", GRID, names), turned)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"Tim": "time"}, "got 'Tim', expected one of .*Time.*; did you mean 'Time'"),
        (
            {"Time": "tme"},
            "new name of 'Time': got 'tme', expected one of .'simulation', 'time', 'y'",
        ),
        ({"wind": "T"}, "got 'wind' as 'T', expected another name"),
        ({}, r"\('time', 'south_north', 'west_east'\).*data\.dims, or .*south_north=\"y\""),
    ],
)
def test_names_that_are_not_there_are_refused(flow, tmp_path, names, words):
    wrf = flow.rename(time="Time", y="south_north", x="west_east")
    with pytest.raises(InputError, match=words) as caught:
        loaded(wrf, tmp_path / "mine.nc", GRID, names)
    assert "\n" not in str(caught.value)


def test_what_lies_beside_is_passed_over(flow, tmp_path):
    stamps = np.array([f"2000-01-01_00:00:0{i}" for i in range(STEPS)], dtype="S19")
    beside = flow.assign(
        Times=("time", stamps),
        title=((), "a run"),
        XLAT=(("y", "x"), np.zeros((4, 3))),
        time_bnds=(("time", "nv"), np.full((STEPS, 2), np.nan)),
        count=(("time", "z"), np.zeros((STEPS, 2), dtype="i2")),
    ).set_coords("XLAT")
    for engine in ("h5netcdf", "scipy"):
        how = {"engine": engine, "unlimited_dims": ["time"]}
        same(loaded(beside, tmp_path / "mine.nc", **how), flow)


@pytest.mark.parametrize("dims", [(), ("y", "x"), ("time",), ("x", "y")])
def test_a_forcing_that_does_not_change_is_repeated_exact(flow, dims):
    still = flow["wind"].isel({dim: 0 for dim in ("time", "y", "x") if dim not in dims}, drop=True)
    data = from_dataset(flow.assign(wind=still.transpose(*dims)), GRID)
    wanted = still.broadcast_like(flow["T"]).transpose("time", "y", "x")
    assert np.array_equal(data.forcing[0, :, 0], wanted)


def test_a_state_that_lacks_a_dim_or_a_time_is_refused(flow):
    for wrong in (
        flow.assign(T=flow["T"].isel(time=0, drop=True)),
        flow.assign(T=flow["T"].isel(x=0, drop=True)),
        flow.assign(wind=flow["wind"].isel(time=slice(5)).drop_vars("time").rename(time="t2")),
    ):
        with pytest.raises(InputError, match=r"got dims \('simulation', .*expected \('simulation'"):
            from_dataset(wrong, GRID)


def test_times_and_cells_that_lie_along_other_dims_are_refused(flow):
    two = flow.drop_vars(["time", "y"]).expand_dims(simulation=2)
    times = np.broadcast_to(0.2 * np.arange(STEPS), (2, STEPS))
    for name, dims, values in (
        ("time", ("simulation", "time"), times),
        ("time", ("x",), np.arange(3.0)),
        ("y", ("y", "x"), np.zeros((4, 3))),
    ):
        with pytest.raises(InputError, match=f"data .*{name}'?: got .*dims .*expected .* along"):
            from_dataset(two.assign_coords({name: (dims, values)}), GRID)


def test_numbers_of_other_types(flow, tmp_path):
    mixed = flow.assign(wind=flow["wind"].astype("f8"))
    same(loaded(mixed, tmp_path / "mine.nc"), flow)
    with pytest.raises(InputError, match="'T': got type int16, expected real numbers"):
        loaded(flow.assign(T=flow["T"].astype("i2")), tmp_path / "mine.nc")


@pytest.mark.parametrize(
    "times", [[6, 5, 4, 3, 2, 1, 0], [0, 2, 1, 3, 4, 5, 6], [0, 0, 1, 2, 3, 4]]
)
def test_times_in_disorder_are_refused_with_the_remedy(flow, tmp_path, times):
    wrong = flow.isel(time=times)
    with pytest.raises(InputError, match="data time: got ") as caught:
        loaded(wrong, tmp_path / "mine.nc")
    assert str(caught.value).endswith('xarray\'s .drop_duplicates("time").sortby("time")')
    right = wrong.drop_duplicates("time").sortby("time")
    same(loaded(right, tmp_path / "mine.nc"), flow.isel(time=slice(len(set(times)))))


def test_a_number_that_is_none_in_one_cell_of_one_time(flow, tmp_path):
    for value in (np.nan, np.inf, -np.inf):
        wrong = flow.copy(deep=True)
        wrong["T"][4, 2, 1] = value
        with pytest.raises(
            InputError, match=r"data 'T': got NaN or infinity, first at \(0, 4, 2, 1\)"
        ):
            loaded(wrong, tmp_path / "mine.nc")


FILLS = [{"_FillValue": 1e20}, {"missing_value": 1e20}, {"_FillValue": 1e20, "missing_value": -9e9}]


@pytest.mark.parametrize("marks", FILLS, ids=" and ".join)
def test_what_is_missing_is_legal_on_land_alone(flow, tmp_path, marks):
    path = tmp_path / "mine.nc"
    with h5netcdf.File(path, "w") as file:
        file.dimensions = dict(flow.sizes)
        for name in ("T", "wind"):
            filled = np.where(MASK, flow[name].values, np.float32(list(marks.values())[-1]))
            variable = file.create_variable(name, ("time", "y", "x"), "f4", data=filled)
            variable.attrs.update({mark: np.float32(value) for mark, value in marks.items()})
    same(load_trajectories(path, OCEAN), flow.where(WET, 0))
    with pytest.raises(InputError, match=r"NaN or infinity, first at \(0, 0, 1, 1\), 14 values"):
        load_trajectories(path, GRID)


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "f4"])
@pytest.mark.parametrize("dims", [("y", "x"), ("x", "y"), ("time", "y", "x")])
def test_a_mask_of_bytes_is_compared_with_the_grids(flow, tmp_path, kind, dims):
    land = flow.where(WET).assign(mask=WET.broadcast_like(flow["T"]).astype(kind))
    if "time" not in dims:
        land["mask"] = land["mask"].isel(time=0, drop=True)
    land["mask"] = land["mask"].transpose(*dims)
    path = tmp_path / "mine.nc"
    same(loaded(land, path, OCEAN), flow.where(WET, 0))
    turned = land.isel(y=slice(None, None, -1))
    same(loaded(turned, path, OCEAN), flow.where(WET, 0))
    for wrong, grid, cells in (
        (land.assign(mask=1 - land["mask"].astype("i1")), OCEAN, 12),
        (land.fillna(0), GRID, 2),
        (turned.drop_vars("y").fillna(0), OCEAN, 4),
    ):
        with pytest.raises(InputError, match=f"data mask: got another .*{cells} cells are not"):
            loaded(wrong, path, grid)


def test_files_that_were_cut_off_are_refused_and_stay(flow, tmp_path):
    path = tmp_path / "mine.nc"
    for engine in ("h5netcdf", "scipy"):
        flow.to_netcdf(path, engine=engine)
        whole = path.read_bytes()
        for end in (len(whole) // 2, len(whole) - 40, 10):
            path.write_bytes(whole[:end])
            with pytest.raises(InputError, match=r"mine\.nc: got unreadable") as caught:
                load_trajectories(path, GRID)
            assert "delete" not in str(caught.value)
            assert path.read_bytes() == whole[:end]


def test_the_settings_map_names_and_a_typo_names_those_of_the_file(
    flow, tmp_path, monkeypatch, capsys
):
    Path(tmp_path / "mine.py").write_text(
        "from zopde import Grid\n\n\nclass Mine:\n"
        "    grid = Grid((4, 3), (4.0, 1.5), 0.2, ('T',), ('wind',))\n\n"
        "    def step(self, state, forcing):\n        return 0.5 * state + forcing\n"
    )
    monkeypatch.chdir(tmp_path)
    flow.rename(time="Time", y="lat", x="lon", T="T2").to_netcdf("mine.nc", engine="h5netcdf")

    def zopde(dims):
        words = ["correct", "mine.py:Mine", "--data", "mine.nc", "--out", "run", "--overwrite"]
        words += ["--set", f"data.dims={dims}", "--set", 'data.names={T2="T"}']
        words += ["--set", 'run.labels=["SRC"]', "--set", "training.unroll=1"]
        monkeypatch.setattr(sys, "argv", ["zopde", *words])
        return _run(), capsys.readouterr()

    code, said = zopde('{Time="time",lat="y",lon="x"}')
    assert code == 0, said.err
    code, said = zopde('{Time="time",lat="y",lng="x"}')
    assert code == 2
    assert said.err.count("\n") == 1
    assert "got 'lng', expected one of" in said.err
    assert "lon" in said.err
