import csv
import json

import pytest
import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import load_file

from zopde import (
    CorrectedSolver,
    Grid,
    InputError,
    Trajectories,
    load_corrector,
    load_solver,
    rollout,
)
from zopde.studies.correct import load_config, run_correction
from zopde.studies.correct.evaluate import save_states

LABELS = ["SRC", "NON", "NOG", "ID", "ZO-weights", "ZO-weights-scratch", "ZO-interface", "SOL"]


def config_of(spec, changes):
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_spec, tiny):
    """One tiny run with every label and two seeds, for all the tests that only look."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    metrics = run_correction(config_of(toy_spec, [*tiny, "run.seeds=[0,1]"]), folder)
    return folder, metrics


def test_metrics_say_everything(finished):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["labels"] == LABELS
    assert metrics["seeds"] == [0, 1]
    for label in LABELS:
        assert metrics["mae"][label]["mean"] > 0
        assert metrics["mae"][label]["std"] >= 0
        assert metrics["relative_error"][label]["mean"] > 0
        assert metrics["diverged"][label] == metrics["diverged_share"][label] == 0
        assert set(metrics["nrmse"][label]["channels"]) == {"velocity_y", "velocity_x"}
        assert 0 < metrics["correlation_time"][label]["mean"] <= metrics["time"]["length"]
    assert metrics["time"] == {"length": 12 * 0.1, "unit": "s"}
    assert {"zopde", "torch", "phiflow"} <= set(metrics["versions"])


def test_costs_are_counted_exact(finished):
    """20 NON iterations, then 12; 2 windows of 3 steps, of which 2 ask the solver.

    ZO-interface asks for each of the 2 x 4 x 4 entries of every state again.
    """
    _, metrics = finished
    active = max(1, round(0.1 * metrics["parameters"]))
    queries = {"SRC": 0, "NON": 32, "NOG": 32, "ID": 32, "ZO-interface": 32, "SOL": 32}
    queries["ZO-weights"] = 20 + 12 * (active + 1)
    queries["ZO-weights-scratch"] = 12 * (active + 1)
    assert metrics["queries"] == queries
    unrolled = 2 * 2
    steps = {"SRC": 0, "NON": 0, "NOG": 12 * unrolled, "SOL": 12 * unrolled}
    steps["ID"] = 12 * unrolled
    steps["ZO-weights"] = steps["ZO-weights-scratch"] = 12 * (active + 1) * unrolled
    steps["ZO-interface"] = 12 * unrolled * (1 + 2 * 4 * 4)
    assert metrics["solver_steps"] == steps
    assert metrics["stored_solver_steps"] == 3 * 12


def test_run_folder_is_complete(finished):
    folder, _ = finished
    for label in LABELS[1:]:
        for seed in (0, 1):
            names = {path.name for path in (folder / label / f"seed-{seed}").iterdir()}
            assert names == {"checkpoint.pt", "history.csv", "model.safetensors", "rollout.nc"}
    with safe_open(folder / "NON" / "seed-0" / "model.safetensors", framework="pt") as model:
        assert (
            len(model.metadata()) == 1
        )  # more would be written in any order, other bytes each run
    for picture in ("error_over_time.png", "fields.png"):
        assert (folder / picture).stat().st_size > 10_000
    assert "[zo]" in (folder / "config.toml").read_text()
    with (folder / "ZO-weights" / "seed-0" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert all(float(row["loss"]) > 0 for row in rows)


def test_saved_model_rolls_out_to_the_saved_rollout(finished, toy_spec):
    folder, metrics = finished
    place = folder / "ZO-weights" / "seed-1"
    network = load_corrector(place / "model.safetensors")
    solver = load_solver(toy_spec).at((4, 4))
    with xr.open_dataset(next(folder.parent.glob("*.nc"))) as file:
        data = file.load()
    names = ["velocity_y", "velocity_x", "force_y", "force_x"]
    fields = torch.from_numpy(data[names].to_dataarray().values)[:, 3:]
    state, forcing = fields[:2].permute(1, 2, 0, 3, 4), fields[2:].permute(1, 2, 0, 3, 4)
    found = rollout(CorrectedSolver(solver, network), state[:, 0], 12, lambda t: forcing[:, t])
    with xr.open_dataset(place / "rollout.nc") as file:
        saved = torch.from_numpy(file[names[:2]].to_dataarray().values).permute(1, 2, 0, 3, 4)
    assert torch.equal(found, saved)
    error = (found - state)[:, 1:].abs().mean(dim=(1, 2, 3, 4))
    runs = torch.tensor(metrics["mae"]["ZO-weights"]["runs"][1])
    torch.testing.assert_close(error, runs.float(), rtol=1e-5, atol=0)


def test_resuming_a_finished_run_changes_nothing(finished, toy_spec, tiny):
    folder, metrics = finished
    models = list(folder.rglob("model.safetensors"))
    histories = {path: path.read_bytes() for path in folder.rglob("history.csv")}
    before = {path: load_file(path) for path in models}
    changes = [*tiny, "run.seeds=[0,1]"]
    again = run_correction(config_of(toy_spec, changes), folder, resume=True)
    assert again["mae"] == metrics["mae"]
    assert again["queries"] == metrics["queries"]
    assert len(models) == 14
    for path, weights in before.items():
        after = load_file(path)
        assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert all(path.read_bytes() == content for path, content in histories.items())


def test_data_of_other_settings_is_not_reused(tmp_path, toy_spec, tiny):
    short = [*tiny, 'run.labels=["SRC"]', f'data.path="{tmp_path / "data.nc"}"']
    run_correction(config_of(toy_spec, short), tmp_path / "one")
    with pytest.raises(InputError, match="setting 'skip' of data file"):
        run_correction(config_of(toy_spec, [*short, "data.skip=3"]), tmp_path / "two")


def test_unknown_solver_leaves_no_folder(tmp_path, tiny):
    with pytest.raises(InputError, match="solver"):
        run_correction(config_of("burgrs", tiny), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_black_box_without_data_says_what_to_do(tmp_path, toy_spec, tiny):
    spec = toy_spec.replace(":Toy", ":NoTwin")
    with pytest.raises(InputError, match="existing NetCDF file"):
        run_correction(config_of(spec, tiny), tmp_path / "run")


@pytest.mark.parametrize("kind", ["NoTwin", "Exploding"])
def test_black_box_with_the_users_data(kind, finished, tmp_path, toy_spec, tiny):
    """No twin: SOL is left out by name. A diverging solver is reported as diverged."""
    folder, _ = finished
    data = next(folder.parent.glob("*.nc"))
    changes = [*tiny, f'data.path="{data}"', 'run.labels=["SRC","ZO-weights","SOL"]']
    metrics = run_correction(
        config_of(toy_spec.replace(":Toy", f":{kind}"), changes), tmp_path / "run"
    )
    assert metrics["labels"] == ["SRC", "ZO-weights"]
    assert "SOL" in metrics["skipped"]
    assert metrics["diverged"]["SRC"] == (2 if kind == "Exploding" else 0)
    assert metrics["diverged_share"]["SRC"] == (kind == "Exploding")
    for measure in ("mae", "nrmse"):
        assert (metrics[measure]["SRC"]["mean"] is None) == (kind == "Exploding")


def test_too_little_data_raises(finished, tmp_path, toy_spec, tiny):
    data = next(finished[0].parent.glob("*.nc"))
    spec = toy_spec.replace(":Toy", ":NoTwin")
    with pytest.raises(InputError, match="got 5 simulations, expected at least"):
        run_correction(
            config_of(spec, [*tiny, f'data.path="{data}"', "data.test=9"]), tmp_path / "run"
        )


def test_forecast_counts_what_the_run_asks(finished, tmp_path, toy_spec, tiny, forecast):
    _, metrics = finished
    plan = {row.label: row for row in forecast(config_of(toy_spec, tiny), tmp_path / "none.nc")}
    assert list(plan) == ["data", *LABELS]
    for label in LABELS:
        assert plan[label].queries == metrics["queries"][label], label
        assert plan[label].solver_steps == metrics["solver_steps"][label], label
        assert plan[label].iterations == metrics["iterations"][label], label
        assert plan[label].seconds > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("with_data", [False, True])
def test_forecast_counts_epochs_of_the_real_data(
    with_data, finished, tmp_path, toy_spec, tiny, forecast
):
    lengths = ['non.length="2 epochs"', 'training.length="1 epoch"', 'run.labels=["SRC","NON"]']
    path = next(finished[0].parent.glob("*.nc")) if with_data else tmp_path / "none.nc"
    config = config_of(toy_spec, [*tiny, *lengths, f'data.path="{path}"'])
    planned = {row.label: row.iterations for row in forecast(config, path)}["NON"]
    assert planned == run_correction(config, tmp_path / "run")["iterations"]["NON"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.skip=9", "setting 'skip'"),
        ("data.test=9", "setting 'simulations'"),
        ("training.unroll=99", "training.unroll = 99"),
    ],
)
def test_forecast_finds_what_the_run_would(change, words, finished, toy_spec, tiny, forecast):
    path = next(finished[0].parent.glob("*.nc"))
    with pytest.raises(InputError, match=words):
        forecast(config_of(toy_spec, [*tiny, change]), path)


@pytest.mark.parametrize("content", [b"nothing", None])
def test_unreadable_model_raises(finished, tmp_path, content):
    path = tmp_path / "model.safetensors"
    model = (finished[0] / "NON" / "seed-0" / "model.safetensors").read_bytes()
    path.write_bytes(model[:-50] if content is None else content)
    with pytest.raises(InputError, match="model file"):
        load_corrector(path)


def test_float64_and_sgd_and_central(tmp_path, toy_spec, tiny):
    changes = [
        *tiny,
        "run.dtype=float64",
        "training.optimizer=sgd",
        "training.init=scratch",
        "zo.scheme=central",
        "zo.resample='1 epoch'",
        'run.labels=["SRC","ZO-weights"]',
    ]
    metrics = run_correction(config_of(toy_spec, changes), tmp_path / "run")
    assert metrics["init"]["ZO-weights"] == "scratch"
    active = max(1, round(0.1 * metrics["parameters"]))
    assert metrics["queries"]["ZO-weights"] == 12 * 2 * active
    model = load_corrector(tmp_path / "run" / "ZO-weights" / "seed-0" / "model.safetensors")
    assert model.state_scale.dtype == torch.float64


def test_a_unit_of_a_forcing_channel_does_not_hinder_rollouts_as_files(tmp_path):
    units = {"velocity": "m/s", "viscosity": "m2/s"}
    grid = Grid((4,), (1.0,), 0.1, ("velocity",), ("viscosity",), units=units)
    states = torch.rand(2, 3, 1, 4)
    save_states(states, Trajectories(grid, states, torch.ones(2, 3, 1, 4)), tmp_path / "runs.nc")
    written = xr.load_dataset(tmp_path / "runs.nc")
    assert written["velocity"].attrs["units"] == "m/s"
    assert "viscosity" not in written
