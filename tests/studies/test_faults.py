"""Runs whose solver fails: no wrong number, no lost work."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zopde import Grid, InputError, SolverError, Trajectories, save_trajectories
from zopde.studies.correct import load_config, run_correction

HERE = Path(__file__).parent.parent
FLAKY = f"{HERE / 'toy_faults.py'}:Flaky"
LABELS = 'run.labels=["SRC","NON","NOG","ZO-weights","ZO-interface"]'


def config(tiny, *changes, **options):
    tables = {"solver": {"spec": FLAKY, "options": options}}
    return load_config("quick", None, [*tiny, LABELS, "zo.chunk=8", *changes], tables)


def weights(folder):
    found = {}
    for file in sorted(folder.glob("*/seed-0/model.safetensors")):
        found |= {f"{file.parts[-3]} {k}": v for k, v in load_file(file).items()}
    return found


def same(one, other):
    left, right = weights(one), weights(other)
    return bool(left) and all(torch.equal(left[name], right[name]) for name in left | right)


@pytest.fixture(scope="module")
def clean(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("clean") / "run"
    return folder, run_correction(config(tiny, share=0.0), folder)


@pytest.mark.parametrize("how", ["raise", "nan", "whole"])
def test_asking_again_ends_with_the_weights_of_a_run_without_faults(how, clean, tmp_path, tiny):
    flaky = config(tiny, "run.failures=retry", "run.retries=8", share=0.1, how=how)
    found = run_correction(flaky, tmp_path / "run")
    assert same(clean[0], tmp_path / "run")
    for name in ("mae", "queries", "solver_steps", "iterations", "skipped_iterations"):
        assert found[name] == clean[1][name], name
    assert clean[1]["failures"] == {}
    assert set(found["failures"]) >= {"NOG", "ZO-weights", "ZO-interface"}
    assert sum(found["failures"]["ZO-weights"].values()) > 50


@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_dropping_goes_on_and_lets_no_nan_in(scheme, clean, tmp_path, tiny):
    changes = ["run.failures=drop", "run.retries=1", f"zo.scheme={scheme}"]
    flaky = config(tiny, *changes, f"interface.scheme={scheme}", share=0.15, how="nan")
    found = run_correction(flaky, tmp_path / "run")
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    assert not found["stopped_early"]
    assert found["iterations"] == clean[1]["iterations"]
    assert found["failures"]["ZO-weights"]["an answer that is not finite"] > 50
    assert found["skipped_iterations"].get("NOG", 0) > 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == found


def test_a_lost_probe_alone_changes_nothing_else(clean, tmp_path, tiny):
    run_correction(config(tiny, "run.failures=drop", share=0.0), tmp_path / "run")
    assert same(clean[0], tmp_path / "run")


def test_too_many_failures_stop_and_a_better_solver_goes_on(clean, tmp_path, tiny):
    stop = ["run.failures=drop", "run.retries=2", "run.failure_limit=0.11"]
    with pytest.raises(SolverError, match="more than the limit of 11 %; the latest: no conv"):
        run_correction(config(tiny, *stop, share=0.15, seed=3), tmp_path / "run")
    again = config(tiny, "run.failures=retry", "run.retries=8", share=0.15, seed=3)
    run_correction(again, tmp_path / "run", resume=(tmp_path / "run" / "config.toml").exists())
    assert same(clean[0], tmp_path / "run")


def test_an_error_keeps_the_checkpoint_of_the_last_iteration(clean, tmp_path, tiny):
    """`raise` ends the run at the first failure; asking again, it goes on from there."""
    asked = tmp_path / "folder"
    asked.mkdir()
    once = config(tiny, "run.checkpoint_seconds=1000", share=0.002, seed=2, asked=str(asked))
    with pytest.raises(SolverError, match="states failed; the first: no convergence"):
        run_correction(once, tmp_path / "run")
    kept = [p for p in (tmp_path / "run").rglob("checkpoint.pt") if "NON" not in str(p)]
    states = [torch.load(path, weights_only=True) for path in kept]
    assert any(0 < state["iterations"] < 12 for state in states)
    again = config(tiny, "run.failures=retry", share=0.002, seed=2, asked=str(asked))
    found = run_correction(again, tmp_path / "run", resume=True)
    assert same(clean[0], tmp_path / "run")
    assert found["solver_steps"] == clean[1]["solver_steps"]


SCRIPT = """
import sys
from zopde import load_config, run_correction
spec, out, *changes = sys.argv[1:]
config = load_config("quick", None, changes, {"solver": {"spec": spec}})
run_correction(config, out, resume="--resume" in changes)
"""


def test_killed_and_resumed_with_the_store_asks_nothing_twice(clean, tmp_path, tiny):
    def start(out, asked):
        changes = [*tiny, LABELS, "zo.chunk=8", f"run.store={tmp_path / 'store'}"]
        changes += ["run.failures=retry", "run.retries=8", "run.checkpoint_seconds=1000"]
        solver = f'{{how="raise",share=0.1,asked="{asked.parent}"}}'
        arguments = [FLAKY, str(out), *changes, f"solver.options={solver}"]
        # As many threads as this process has: the sums are rounded the same.
        threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], env=threads)

    # The same file, so that it is the same solver to the store.
    out, asked = tmp_path / "run", tmp_path / "folder" / "asked"
    asked.parent.mkdir()
    first = start(out, asked)
    while not (asked.exists() and asked.stat().st_size > 3000):
        assert first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = asked.stat().st_size
    options = {"how": "raise", "share": 0.1, "asked": str(asked.parent)}
    changes = ["run.failures=retry", "run.retries=8", f"run.store={tmp_path / 'store'}"]
    resumed = run_correction(config(tiny, *changes, **options), out, resume=True)
    assert same(clean[0], out)
    assert resumed["mae"] == clean[1]["mae"]
    total = asked.stat().st_size
    asked.unlink()
    run_correction(
        config(tiny, *changes[:2], f"run.store={tmp_path / 'new'}", **options), tmp_path / "b"
    )
    whole = asked.stat().st_size
    assert before > 3000
    # A piece of at most 64 states was in flight when the process died; failures are asked again.
    assert abs(total - whole) < 64 + 0.15 * whole
    assert resumed["solver_steps"]["ZO-weights"] > 0


@pytest.mark.parametrize(
    "change",
    [
        "run.failures=ignore",
        "run.retries=-1",
        "run.failure_limit=0",
        "run.store_gib=0",
        "run.timeout=3",
        "run.executor=slurm",
        "run.executor=dask",
    ],
)
def test_settings_raise(change, tiny):
    name = "run.workers" if change.endswith("=dask") else change.partition("=")[0]
    with pytest.raises(InputError, match=name):
        config(tiny, change)


def test_a_function_that_gives_nan_in_a_rollout_has_diverged_there(tmp_path):
    """As the rollout of a solver in torch has: one of three, and the run does not end."""
    text = "import numpy as np\ndef advance(u):\n    return np.where(abs(u) > 1, np.nan, 1.1 * u)\n"
    (tmp_path / "grow.py").write_text(text)
    table = {"shape": [8], "extent": [1.0], "dt": 1.0, "channels": ["u"]}
    grid = Grid((8,), (1.0,), 1.0, ("u",))
    waves = torch.linspace(0, 6, 8).sin() * torch.tensor([0.1, 0.2, 0.3, 0.9, 0.4])[:, None]
    states = waves[:, None, None].repeat(1, 5, 1, 1)
    save_trajectories(Trajectories(grid, states), tmp_path / "data.nc")
    tables = {
        "solver": {
            "spec": "callable",
            "options": {"function": f"{tmp_path / 'grow.py'}:advance", "grid": table},
        },
        "data": {"path": str(tmp_path / "data.nc"), "train": 2, "test": 3},
        "training": {"unroll": 2},
        "run": {"labels": ["SRC"]},
    }
    metrics = run_correction(load_config(tables=tables), tmp_path / "run")
    assert metrics["diverged"] == {"SRC": 1}
    (reasons,) = metrics["failures"].values()
    assert all("not finite" in reason for reason in reasons)
