"""The command as a user types it: a process, its exit code, its two streams."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from zopde.cli.app import main

ENVIRONMENT = {**os.environ, "COLUMNS": "140", "OMP_NUM_THREADS": "1"}


def zopde(*words, cwd, wait=True):
    command = [sys.executable, "-m", "zopde.cli.app", *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    if wait:
        return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, check=False, **streams)
    return subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, **streams)


def sets(changes):
    return [word for change in changes for word in ("--set", change)]


def test_help_and_solvers(tmp_path):
    done = zopde("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("correct", "check", "simulate", "solvers"))
    done = zopde("solvers", cwd=tmp_path)
    assert done.stdout.startswith("burgers ")
    assert json.loads(zopde("solvers", "--json", cwd=tmp_path).stdout)[0]["name"] == "burgers"


def test_correct_ends_with_a_table(toy_spec, tiny, tmp_path):
    done = zopde("correct", toy_spec, *sets(tiny), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for label in ("SRC", "NON", "NOG", "ZO-weights", "SOL"):
        assert label in done.stdout
    assert "ZO-weights, seed 0: 12/12 in" in done.stderr
    assert (tmp_path / "run" / "metrics.json").exists()


def test_json_and_nothing_else_on_stdout(toy_spec, tiny, tmp_path):
    short = [*tiny, 'run.labels=["SRC"]']
    done = zopde("correct", toy_spec, *sets(short), "--out", "run", "--json", cwd=tmp_path)
    metrics = json.loads(done.stdout)
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_simulate_then_correct_on_that_file(toy_spec, tiny, tmp_path):
    short = [*tiny, 'run.labels=["SRC"]']
    done = zopde("simulate", toy_spec, *sets(short), "--out", "d/data.nc", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = zopde("simulate", toy_spec, *sets(short), "--out", "d/data.nc", cwd=tmp_path)
    assert again.returncode == 2
    assert "add --overwrite" in again.stderr
    done = zopde("correct", toy_spec, *sets(short), "--data", "d/data.nc", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reference data: d/data.nc" in done.stderr
    other = zopde(
        "correct",
        toy_spec,
        *sets(short),
        "--set",
        "data.seed=5",
        "--data",
        "d/data.nc",
        "--out",
        "other",
        cwd=tmp_path,
    )
    assert other.returncode == 2
    assert "setting 'seed' of data file" in other.stderr


def test_dry_run_prints_costs_and_writes_nothing(toy_spec, tiny, tmp_path):
    done = zopde("correct", toy_spec, *sets(tiny), "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    rows = {row["label"]: row for row in plan["labels"]}
    assert rows["ZO-weights"]["queries"] > rows["SOL"]["queries"] > 0
    assert [row["cut"] for row in plan["cuts"]][:3] == [
        *("weights", "interface, identity", "interface, dense"),
    ]
    assert not list(tmp_path.iterdir())


def test_check_gradient_shows_tables_and_writes_nothing(toy_spec, tiny, tmp_path):
    done = zopde("check", "gradient", toy_spec, *sets(tiny), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "body.layers.0.weight" in done.stdout
    assert "recommended: mu " in done.stdout
    assert "noise of the loss: 0.0e+00 asked again" in done.stdout
    assert not list(tmp_path.iterdir())


def test_check_gradient_as_json(toy_spec, tiny, tmp_path):
    words = ["--directions", "5", "--json"]
    done = zopde("check", "gradient", toy_spec, *sets(tiny), *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["estimator"] == "RGE, 5 directions"
    assert found["against"] == "autograd"
    assert found["recommended_mu"] in [point["mu"] for point in found["sweep"]]
    assert {layer["name"] for layer in found["layers"]} >= {"body.layers.0.bias"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["correct", "burgrs"], "did you mean 'burgers'"),
        (["correct", "{toy}", "--set", "zo.mu=-1"], "zo.mu: got -1"),
        (["correct", "{toy}", "--set", "zo.sparsity=1"], "zo.sparsity"),
        (["correct", "{toy}", "--set", "zo.sparsty=0.5"], "did you mean 'zo.sparsity'"),
        (["correct", "{toy}", "--preset", "quik"], "did you mean 'quick'"),
        (["correct", "{toy}", "--config", "none.toml"], "config file"),
        (["correct", "{toy}", "--device", "warp"], "run.device"),
        (["correct", "{toy}", "--out", "/proc/zopde"], "run folder"),
        (["correct", "{toy}", "--out", "file"], "run folder"),
        (["correct", "{toy}", "--data", "file", "--out", "new"], "unreadable"),
        (["correct"], "Missing argument"),
        (["compare", "{toy}", "--budget", "0"], "compare.budget: got 0"),
        (["compare", "{toy}", "--budget", "1e5"], "Invalid value"),
        (["check", "gradient"], "Missing argument"),
        (["check", "gradent", "{toy}"], "No such command"),
        (["check", "gradient", "burgrs"], "did you mean 'burgers'"),
        (["check", "gradient", "{toy}", "--set", "zo.mu=-1"], "zo.mu: got -1"),
        (["check", "gradient", "{toy}", "--set", "zo.mu_relative=1"], "zo.mu_relative: got 1"),
        (["check", "gradient", "{toy}", "--directions", "-2"], "directions: got -2"),
        (["check", "gradient", "{toy}", "--data", "file"], "unreadable"),
        (["certify"], "Missing argument"),
        (["certify", "none.safetensors"], "model file: got none.safetensors"),
        (["certify", "torch.nn:Flatten", "--sigma", "-1"], "sigma: got -1"),
        (["certify", "torch.nn:Flatten", "--decide", "-1"], "decide: got (-1.0,)"),
        (["certify", "torch.nn:Flatten", "--decide", "9"], "the fewest that decide"),
        (["certify", "torch.nn:Flatten", "--part", "trian"], "did you mean 'train'"),
        (["certify", "torch.nn:Flatten"], "expected scores (2, 10)"),
        (["certify", "torch.nn:Flaten"], "did you mean 'Flatten'"),
        (["certify", "mine.py:model"], "classifier file: got mine.py"),
        (["certify", "ftp://somewhere"], "classifier 'ftp://somewhere'"),
        (["certify", "torch.nn:Flatten", "--n", "many"], "Invalid value"),
        (["certify", "torch.nn:Flatten", "--beside", "file"], "columns"),
        (["attack"], "Missing argument"),
        (["attack", "nowhere"], "certificates.tsv: got"),
        (["attack", "nowhere", "--reach", "0"], "reach: got 0"),
        (["attack", "file"], "columns index label"),
        (["corect", "{toy}"], "No such command"),
        (["simulate", "{toy}"], "--out"),
        (["simulate", "{toy}", "--out", "/proc/zopde/data.nc"], "writable folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words, expected, toy_spec, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("not a NetCDF file, and no folder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["zopde", *(word.format(toy=toy_spec) for word in words)])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    complaints = [line for line in shown.err.splitlines() if line.startswith("zopde: ")]
    assert len(complaints) == 1
    assert expected in complaints[0]
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert (tmp_path / "file").read_text() == "not a NetCDF file, and no folder"


def test_debug_shows_the_traceback(toy_spec, tmp_path):
    done = zopde("--debug", "correct", "burgrs", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def results(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    for volatile in ("seconds", "workers"):
        del metrics[volatile]
    models = {
        str(path.relative_to(folder)): load_file(path)
        for path in sorted(folder.rglob("model.safetensors"))
    }
    return metrics, models


def test_a_run_that_pauses_ends_with_exit_code_3_and_a_line(toy_spec, tiny, tmp_path):
    command = ["correct", toy_spec, *sets([*tiny, "run.solver_steps=10"])]
    done = zopde(*command, "--out", "run", cwd=tmp_path)
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("zopde: paused: ")
    assert last.endswith("run.solver_steps allows 10; the same command with --resume goes on")


@pytest.mark.parametrize(
    ("stop", "workers"),
    [
        (signal.SIGKILL, (0, 0)),
        (signal.SIGINT, (0, 0)),
        pytest.param(signal.SIGKILL, (1, 2), marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, (1, 2), marks=pytest.mark.slow),
    ],
)
def test_killed_in_zeroth_order_training_and_resumed_is_identical_resumes(
    stop, workers, toy_spec, tiny, tmp_path
):
    changes = [*tiny, 'training.length="40 iterations"']
    command = ["correct", toy_spec, *sets([*changes, f"run.workers={workers[0]}"])]
    assert zopde(*command, "--out", "whole", cwd=tmp_path).returncode == 0
    command = ["correct", toy_spec, *sets([*changes, f"run.workers={workers[1]}"])]

    process = zopde(*command, "--out", "parts", cwd=tmp_path, wait=False)
    history = tmp_path / "parts" / "ZO-weights" / "seed-0" / "checkpoint.pt"
    deadline = time.monotonic() + 60
    while not history.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert not (tmp_path / "parts" / "metrics.json").exists()
    if stop == signal.SIGINT:
        assert "--resume goes on" in errors
    done = zopde(*command, "--out", "parts", cwd=tmp_path)
    assert done.returncode == 2, "a started run must not be overwritten"
    done = zopde(*command, "--out", "parts", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    whole, parts = results(tmp_path / "whole"), results(tmp_path / "parts")
    assert parts[0] == whole[0]
    assert parts[1].keys() == whole[1].keys()
    for name, weights in whole[1].items():
        for key, value in weights.items():
            assert torch.equal(value, parts[1][name][key]), (name, key)


DIGITS = [
    "network.sizes={depth=1,width=3}",
    "training.batch=480",
    'training.length="1 epoch"',
    'training.warmup="0 epochs"',
    "zo.score_directions=4",
    "zo.score_images=2",
    "run.seeds=[0]",
]


def test_classify_ends_with_a_table_and_a_dry_run_writes_nothing(tmp_path):
    done = zopde("classify", *sets(DIGITS), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "s/iteration" in done.stdout
    assert not list(tmp_path.iterdir())
    done = zopde("classify", *sets(DIGITS), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "DeepZero" in done.stdout
    assert (tmp_path / "run" / "metrics.json").exists()


def test_classify_without_its_data_is_one_line(tmp_path):
    done = zopde("classify", "--preset", "cnn-730", cwd=tmp_path)
    assert done.returncode == 2
    assert "zopde data fetch cifar10" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "classify-cnn-730").exists()


def test_data_fetch_without_a_server_is_one_line(tmp_path):
    done = zopde("data", "fetch", "cifar10", "--url", "http://127.0.0.1:9/x", cwd=tmp_path)
    assert done.returncode == 2
    assert "a server that answers" in done.stderr
