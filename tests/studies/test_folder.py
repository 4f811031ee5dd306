"""What a run may do to a folder, and what it may not."""

import json

import pytest
import torch

from zopde import InputError, load_trajectories, save_trajectories
from zopde.studies.correct import load_config, run_correction
from zopde.studies.folder import locked

SRC = 'run.labels=["SRC"]'


def run(spec, changes, folder, **how):
    config = load_config("quick", None, changes, {"solver": {"spec": spec}})
    return run_correction(config, folder, **how)


def test_full_folder_raises_and_keeps_everything(tmp_path, toy_spec, tiny):
    folder = tmp_path / "run"
    run(toy_spec, [*tiny, SRC], folder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="--resume to go on with it, --overwrite"):
        run(toy_spec, [*tiny, SRC], folder)
    with pytest.raises(InputError, match=r"setting 'run.seeds': got \[0, 1\], expected \[0\]"):
        run(toy_spec, [*tiny, SRC, "run.seeds=[0,1]"], folder, resume=True)
    with pytest.raises(InputError, match="--resume: got --overwrite too"):
        run(toy_spec, [*tiny, SRC], folder, resume=True, overwrite=True)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("record", [None, 'title = "my site"\n', "[zo]\nmu = 'x'\n"])
def test_folder_of_something_else_is_never_deleted(record, tmp_path, toy_spec, tiny):
    (tmp_path / "thesis.tex").write_text("years of work")
    if record:
        (tmp_path / "config.toml").write_text(record)
    with pytest.raises(InputError, match="no zopde run"):
        run(toy_spec, [*tiny, SRC], tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(tmp_path, toy_spec, tiny):
    folder = tmp_path / "run"
    run(toy_spec, [*tiny, SRC], folder)
    (folder / "SRC" / "old").write_text("")
    (folder / "notes.txt").write_text("mine")
    run(toy_spec, [*tiny, SRC], folder, overwrite=True)
    assert not (folder / "SRC" / "old").exists()
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "bad", ["data.path='bad.nc'", "corrector.sizes={widht=3}", "corrector.sizes={kernel=11}"]
)
def test_bad_input_costs_neither_the_old_run_nor_the_folder(
    bad, tmp_path, toy_spec, tiny, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.nc").write_text("no NetCDF")
    run(toy_spec, [*tiny, SRC], tmp_path / "old")
    before = (tmp_path / "old" / "metrics.json").read_bytes()
    with pytest.raises(InputError):
        run(toy_spec, [*tiny, SRC, bad], tmp_path / "old", overwrite=True)
    assert (tmp_path / "old" / "metrics.json").read_bytes() == before
    with pytest.raises(InputError):
        run(toy_spec, [*tiny, SRC, bad], tmp_path / "new")
    run(toy_spec, [*tiny, SRC], tmp_path / "new")


def test_what_a_kill_left_behind_is_no_obstacle(tmp_path, toy_spec, tiny):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.toml.77.partial").write_text("[zo")
    run(toy_spec, [*tiny, SRC], tmp_path / "run", resume=True)


def test_resuming_on_other_data_raises(tmp_path, toy_spec, tiny):
    data = tmp_path / "data.nc"
    changes = [*tiny, SRC, f'data.path="{data}"']
    run(toy_spec, changes, tmp_path / "run")
    grid = __import__("zopde").load_solver(toy_spec).at((4, 4)).grid
    old = load_trajectories(data, grid)
    data.unlink()
    save_trajectories(type(old)(grid, 3 * old.states, old.forcing, old.settings), data)
    with pytest.raises(InputError, match="other numbers than the run was started with"):
        run(toy_spec, changes, tmp_path / "run", resume=True)


def test_error_over_time_as_numbers(tmp_path, toy_spec, tiny):
    metrics = run(toy_spec, [*tiny, SRC], tmp_path / "run")
    header, *rows = (tmp_path / "run" / "error_over_time.csv").read_text().splitlines()
    assert header == "time,SRC"
    values = torch.tensor([[float(x) for x in row.split(",")] for row in rows])
    assert len(values) == 12
    assert values[:, 1].mean().item() == pytest.approx(metrics["mae"]["SRC"]["mean"], rel=1e-5)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics


def test_labels_must_hold_src(tmp_path, toy_spec, tiny):
    with pytest.raises(InputError, match="expected SRC and others"):
        run(toy_spec, [*tiny, 'run.labels=["NON"]'], tmp_path / "run")


def test_a_folder_takes_one_run_at_a_time(tmp_path, toy_spec, tiny):
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder), pytest.raises(InputError, match="a run is going on"):
        run(toy_spec, [*tiny, SRC], folder)
    run(toy_spec, [*tiny, SRC], folder)


def test_refused_data_leaves_no_folder_behind(tmp_path, toy_spec, tiny):
    (tmp_path / "data.nc").write_text("no data")
    path = f"data.path='{tmp_path / 'data.nc'}'"
    with pytest.raises(InputError, match="data"):
        run(toy_spec, [*tiny, SRC, path], tmp_path / "run")
    assert not (tmp_path / "run").exists()
