"""Correction runs of ES: what they cost, with workers, meshes and failures, and a pause."""

import json
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from zopde import InputError, load_corrector
from zopde.errors import PausedError
from zopde.studies.correct import load_config, run_correction
from zopde.studies.report import write_report
from zopde.training import read_history

MEMBERS, ITERATIONS, BATCH, UNROLL = 6, 5, 2, 3
STEPS = {"after": UNROLL - 1, "forcing": UNROLL}


def config_of(spec, tiny, *changes):
    few = [f"es.members={MEMBERS}", f'training.length="{ITERATIONS} iterations"']
    labels = ['run.labels=["SRC","ES"]', "training.init=scratch", "run.checkpoint_seconds=1e9"]
    return load_config("quick", None, [*tiny, *few, *labels, *changes], {"solver": {"spec": spec}})


@pytest.fixture(scope="module", params=["after", "forcing"])
def finished(request, tmp_path_factory, toy_spec, tiny):
    folder = tmp_path_factory.mktemp("evolution") / "run"
    config = config_of(toy_spec, tiny, f"corrector.inject={request.param}")
    return request.param, config, folder, run_correction(config, folder)


def weights_of(folder):
    return load_file(folder / "ES" / "seed-0" / "model.safetensors")


def test_queries_and_solver_steps_are_counted_and_forecast_exact(finished, tmp_path, forecast):
    inject, config, folder, metrics = finished
    plan = {row.label: row for row in forecast(config, tmp_path / "none.nc")}["ES"]
    queries = ITERATIONS * (MEMBERS + 1)
    steps = queries * BATCH * STEPS[inject]
    assert metrics["queries"]["ES"] == plan.queries == queries
    assert metrics["solver_steps"]["ES"] == plan.solver_steps == steps
    rows = read_history(folder / "ES" / "seed-0" / "history.csv")
    assert rows[-1].solver_steps == steps
    assert rows[-1].loss < rows[0].loss
    assert write_report([folder]).exists()
    assert load_corrector(folder)


def test_a_paused_run_goes_on_exactly(finished, tmp_path, toy_spec, tiny):
    inject, _, folder, metrics = finished
    enters, half = f"corrector.inject={inject}", metrics["solver_steps"]["ES"] // 2
    with pytest.raises(PausedError):
        run_correction(
            config_of(toy_spec, tiny, enters, f"run.solver_steps={half}"), tmp_path / "run"
        )
    more = config_of(toy_spec, tiny, enters, "run.solver_steps=100000")
    assert run_correction(more, tmp_path / "run", resume=True)["mae"] == metrics["mae"]
    resumed = weights_of(tmp_path / "run")
    assert all(weight.equal(resumed[name]) for name, weight in weights_of(folder).items())


def test_other_losses_ranks_and_double_precision_train(toy_spec, tiny, tmp_path):
    config = config_of(
        toy_spec,
        tiny,
        "training.loss=relative",
        "es.shaping=rank",
        "es.rank=2",
        "run.dtype=float64",
        "run.failures=drop",
        "corrector.every=2",
    )
    metrics = run_correction(config, tmp_path / "run")
    assert metrics["mae"]["ES"]["mean"] is not None
    whole = replace(config, es=replace(config.es, rank=1))
    other = run_correction(whole, tmp_path / "other")
    assert json.dumps(other["mae"]) != json.dumps(metrics["mae"])


@pytest.mark.slow
def test_workers_find_the_same_weights(finished, tmp_path, toy_spec, tiny):
    inject, _, _, metrics = finished
    runs = []
    for workers in (1, 2):
        how = f"corrector.inject={inject}", f"run.workers={workers}"
        folder = tmp_path / str(workers)
        found = run_correction(config_of(toy_spec, tiny, *how), folder)
        assert found["solver_steps"] == metrics["solver_steps"]
        runs.append(weights_of(folder))
    assert all(weight.equal(runs[1][name]) for name, weight in runs[0].items())


@pytest.mark.parametrize("change", ["es.members=3", "es.rank=0", "es.sigma=0", "es.shaping=ranks"])
def test_settings_outside_their_limits_are_refused(change, toy_spec, tiny):
    with pytest.raises(InputError, match=change.partition("=")[0]):
        config_of(toy_spec, tiny, change)
