"""What a data file says of its own numbers, and what a run's files hold: taken, or refused."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import Grid, InputError, load_trajectories
from zopde.data import from_dataset
from zopde.studies.correct import load_config, run_correction
from zopde.studies.correct.looks import Look, _read_looks
from zopde.studies.report.found import find_run
from zopde.training import read_history

GRID = Grid((4, 3), (4.0, 1.5), 0.2, ("tracer",))


@pytest.fixture
def dataset():
    states = torch.rand(2, 5, 4, 3, generator=torch.Generator().manual_seed(3))
    return xr.Dataset(
        {"tracer": (("simulation", "time", "y", "x"), states.numpy())},
        {"time": 0.2 * np.arange(5), "y": np.arange(4) + 0.5, "x": 0.5 * np.arange(3) + 0.25},
    )


def loaded(dataset, path, **how):
    dataset.to_netcdf(path, **{"engine": "h5netcdf", **how})
    return load_trajectories(path, GRID).states


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
@pytest.mark.parametrize(
    ("marks", "least", "most"),
    [
        ({"valid_range": np.float32([0, 1])}, 0, 1),
        ({"valid_min": np.float32(0)}, 0, np.inf),
        ({"valid_max": 1.0}, -np.inf, 1),
    ],
)
def test_values_outside_their_limits_are_missing(dataset, tmp_path, engine, marks, least, most):
    tracer, path = dataset["tracer"], tmp_path / "mine.nc"
    tracer.attrs.update(marks)
    tracer[0, 0, 0, :2] = [0.0, 1.0]  # the limits themselves are inside
    assert loaded(dataset, path, engine=engine)[0, 0, 0, 0, :2].tolist() == [0, 1]
    for value in (-0.5, 1.5):
        tracer[1, 3, 2, 1] = value
        if least <= value <= most:
            assert loaded(dataset, path, engine=engine)[1, 3, 0, 2, 1] == value
            continue
        with pytest.raises(InputError, match=r"1\.5|-0\.5") as caught:
            loaded(dataset, path, engine=engine)
        assert f"got {value:g} at (1, 3, 2, 1), 1 values in all" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [1e-3, -1e-3])
def test_limits_of_packed_numbers_are_packed(dataset, tmp_path, scale):
    """By the NetCDF conventions: whole limits of the packed numbers, others of the unpacked."""
    tracer, path = dataset["tracer"], tmp_path / "mine.nc"
    packed = {"dtype": "i2", "scale_factor": scale, "add_offset": 0.5, "_FillValue": -32768}
    tracer.encoding.update(packed)
    whole = np.array([-500, 500], "i2")  # 0 to 1
    for limits in (whole, np.array([0.0, 1.0])):
        tracer.attrs["valid_range"] = limits
        tracer[:] = np.clip(tracer, 0, 1)
        assert 0 <= loaded(dataset, path).min() <= loaded(dataset, path).max() <= 1
        tracer[0, 0, 0, 0] = 1.01
        with pytest.raises(InputError, match=r"got 1\.01 at \(0, 0, 0, 0\)"):
            loaded(dataset, path)


@pytest.mark.parametrize("limits", ["0, 1", np.array([0.0, 1, 2]), np.array([0, np.nan]), 3.0])
def test_limits_that_are_none_are_refused(dataset, limits):
    dataset["tracer"].attrs["valid_range"] = limits
    with pytest.raises(InputError, match="expected a least and a largest number"):
        from_dataset(dataset, GRID)


def test_a_packing_that_keeps_nothing_apart_is_refused(dataset, tmp_path):
    path = tmp_path / "mine.nc"
    packed = {"dtype": "i2", "scale_factor": 0.1, "add_offset": 0.5, "_FillValue": -32768}
    dataset["tracer"].encoding.update(packed)
    dataset.to_netcdf(path, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf", decode_cf=False) as file:
        packed = file.load()
    with pytest.raises(InputError, match=r"packed numbers.*xarray\.decode_cf"):
        from_dataset(packed.astype(np.float32), GRID)
    path = tmp_path / "other.nc"
    packed["tracer"].attrs["scale_factor"] = 0.0
    with pytest.raises(InputError, match="got scale_factor 0"):
        loaded(packed, path)
    packed["tracer"].attrs["scale_factor"] = "a tenth"
    with pytest.raises(InputError, match=r"other\.nc: got unreadable"):
        loaded(packed, path)


def test_a_calendar_that_does_not_exist_is_refused(dataset, tmp_path):
    units = {"units": "seconds since 2000-01-01"}
    for calendar in ("noleap", "Gregorian", "360_day"):
        time = ("time", dataset["time"].values, {**units, "calendar": calendar})
        assert loaded(dataset.assign_coords(time=time), tmp_path / "mine.nc").isfinite().all()
    time = ("time", dataset["time"].values, {**units, "calendar": "of the moon"})
    with pytest.raises(InputError, match="got calendar 'of the moon', expected one of CF's: 360_"):
        loaded(dataset.assign_coords(time=time), tmp_path / "mine.nc")


@pytest.mark.parametrize(
    ("units", "own", "got"),
    [
        ({"x": "m", "y": "km"}, "1", "got y in km, x in m, expected one unit of length;"),
        ({"x": "km", "y": "kilometres"}, "m", "of length, the grid's m;"),
        ({"y": "cm"}, "m", "got y in cm, expected one unit of length, the grid's m;"),
        ({"x": "m", "y": "metre"}, "m", ""),
        ({"x": "degrees_east", "y": "degrees_north"}, "1", ""),
        ({"x": "km"}, "1", ""),
    ],
)
def test_coordinates_of_two_units_of_length_are_refused(dataset, units, own, got):
    grid = Grid((4, 3), (4.0, 1.5), 0.2, ("tracer",), units={"space": own})
    for dim, unit in units.items():
        dataset[dim].attrs["units"] = unit
    if not got:
        assert from_dataset(dataset, grid).states.isfinite().all()
        return
    with pytest.raises(InputError, match="data coordinates") as caught:
        from_dataset(dataset, grid)
    assert got in str(caught.value)


def test_only_the_last_row_of_a_csv_file_may_be_cut_short(tmp_path):
    watch, history = tmp_path / "watch.csv", tmp_path / "history.csv"
    rows = ["0,0.5,0.25,4,0", "3,0.75,0.5,4,1", "6,1.0,1.0,5,0"]
    text = "\n".join([",".join(Look._fields), *rows]) + "\n"
    watch.write_text(text)
    assert _read_looks(watch)[2] == (6, 1.0, 1.0, 5, 0)
    watch.write_text(text[:-4])  # 1.0,1.0 of the last row would pass for whole
    assert _read_looks(watch) == [(0, 0.5, 0.25, 4, 0), (3, 0.75, 0.5, 4, 1)]
    watch.write_text(text.replace(",4,1", ""))
    with pytest.raises(InputError, match=r"watch\.csv: .*line 3 has 3 cells, the head 5"):
        _read_looks(watch)
    history.write_text("iteration,loss\n0,1\n1\n2,3\n")
    with pytest.raises(InputError, match=r"history\.csv: .*line 3 has 1 cells, the head 2"):
        read_history(history)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_spec, tiny):
    few = ['run.labels=["SRC","NON"]', 'non.length="3 iterations"']
    config = load_config("quick", None, [*tiny, *few], {"solver": {"spec": toy_spec}})
    folder = tmp_path_factory.mktemp("finished") / "run"
    return config, folder, run_correction(config, folder)


def test_a_changed_figure_of_a_finished_run_is_refused(finished, tmp_path):
    _, folder, metrics = finished
    assert find_run(folder).metrics == metrics
    compare = ["sha256sum", "--check", "--strict", "checksums.txt"]
    said = subprocess.run(compare, cwd=folder, capture_output=True, text=True, check=True).stdout
    histories = ["NON-start/seed-0/history.csv"]
    names = ["NON/seed-0/history.csv", *histories, "error_over_time.csv", "metrics.json"]
    assert said.splitlines() == [f"{name}: OK" for name in names]
    for name in names:
        copy = tmp_path / name.partition("/")[0]
        shutil.copytree(folder, copy)
        text = (copy / name).read_text()
        digit = re.search(r"\d\.\d*[1-9]", text).end() - 1
        (copy / name).write_text(text[:digit] + "0" + text[digit + 1 :])
        with pytest.raises(InputError, match="got other content than checksums") as caught:
            find_run(copy)
        assert name in str(caught.value)
        assert "restore it from a copy" in str(caught.value)
        (copy / "checksums.txt").unlink()  # as runs of early versions
        assert find_run(copy).metrics


def test_checksums_follow_a_run_that_is_resumed_or_begun_anew(finished, tmp_path, monkeypatch):
    config, folder, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    run_correction(config, copy, resume=True)
    assert find_run(copy).metrics
    with monkeypatch.context() as patch:
        patch.setattr("zopde.studies.folder.RunFolder.write_json", lambda *_: 1 / 0)  # a kill
        with pytest.raises(ZeroDivisionError):
            run_correction(config, copy, resume=True)
    assert not (copy / "checksums.txt").exists()
    assert find_run(copy).metrics
    run_correction(config, copy, overwrite=True)
    assert find_run(copy).metrics
    assert (copy / "checksums.txt").exists()
