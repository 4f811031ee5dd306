"""Correction runs of EKI and ETKI: what they cost, what they leave, what a loss must be."""

import json

import pytest
from safetensors.torch import load_file

from zopde import InputError
from zopde.errors import PausedError
from zopde.studies.correct import load_config, run_correction
from zopde.studies.report import write_report
from zopde.training import read_history

MEMBERS, ITERATIONS, BATCH, UNROLL = 6, 5, 2, 3
LABELS = ["SRC", "EKI", "ETKI"]
STEPS = {"after": UNROLL - 1, "forcing": UNROLL}


def config_of(spec, tiny, *changes):
    few = [f"eki.members={MEMBERS}", f'eki.length="{ITERATIONS} iterations"']
    labels = [f"run.labels={json.dumps(LABELS)}", "training.init=scratch"]
    return load_config("quick", None, [*tiny, *few, *labels, *changes], {"solver": {"spec": spec}})


@pytest.fixture(scope="module", params=["after", "forcing"])
def finished(request, tmp_path_factory, toy_spec, tiny):
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    config = config_of(toy_spec, tiny, f"corrector.inject={request.param}")
    return request.param, config, folder, run_correction(config, folder)


def test_queries_and_solver_steps_are_counted_and_forecast_exact(finished, tmp_path, forecast):
    inject, config, folder, metrics = finished
    queries = ITERATIONS * (MEMBERS + 1)
    plan = {row.label: row for row in forecast(config, tmp_path / "none.nc")}
    for label in LABELS[1:]:
        steps = queries * BATCH * STEPS[inject]
        assert metrics["iterations"][label] == plan[label].iterations == ITERATIONS
        assert metrics["queries"][label] == plan[label].queries == queries
        assert metrics["solver_steps"][label] == plan[label].solver_steps == steps
        rows = read_history(folder / label / "seed-0" / "history.csv")
        assert [row.iteration for row in rows] == [*range(ITERATIONS)]
        assert rows[-1].solver_steps == steps


def test_both_learn_something_of_their_own(finished):
    _, _, folder, metrics = finished
    errors = {label: error["mean"] for label, error in metrics["mae"].items()}
    assert len(set(errors.values())) == len(LABELS)
    for label in LABELS[1:]:
        rows = read_history(folder / label / "seed-0" / "history.csv")
        assert rows[-1].loss < rows[0].loss
    assert write_report([folder]).exists()


def test_a_paused_run_goes_on_exactly(finished, tmp_path, toy_spec, tiny):
    inject, _, folder, metrics = finished
    enters = f"corrector.inject={inject}"
    steps = metrics["solver_steps"]
    half = steps["EKI"] + steps["ETKI"] // 2
    paused = config_of(
        toy_spec, tiny, enters, f"run.solver_steps={half}", "run.checkpoint_seconds=1e9"
    )
    with pytest.raises(PausedError):
        run_correction(paused, tmp_path / "run")
    more = config_of(
        toy_spec, tiny, enters, "run.solver_steps=100000", "run.checkpoint_seconds=1e9"
    )
    again = run_correction(more, tmp_path / "run", resume=True)
    assert again["mae"] == metrics["mae"]
    for label in LABELS[1:]:
        one, other = (
            f / label / "seed-0" / "model.safetensors" for f in (folder, tmp_path / "run")
        )
        whole, resumed = load_file(one), load_file(other)
        assert all(weight.equal(resumed[name]) for name, weight in whole.items())


def test_another_loss_than_squares_is_refused(toy_spec, tiny):
    with pytest.raises(InputError, match="'moments' with EKI, ETKI, which needs residuals"):
        config_of(toy_spec, tiny, "training.loss=moments")
    config_of(toy_spec, tiny, "training.loss=moments", 'run.labels=["SRC","NOG"]')


@pytest.mark.parametrize("change", ["eki.members=1", "eki.inflation=0.9", "eki.spread=0"])
def test_settings_outside_their_limits_are_refused(change, toy_spec, tiny):
    with pytest.raises(InputError, match=change.partition("=")[0]):
        config_of(toy_spec, tiny, change)


def test_what_cannot_be_localised_is_refused_before_anything_is_trained(
    toy_spec, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr("zopde.zo.kalman.MOST_LOCALISED", 80)
    few = "training.unroll=3", "eki.localised=true"
    with pytest.raises(InputError, match="EKI among them"):
        config_of(toy_spec, tiny, *few, 'run.labels=["SRC","ETKI"]')
    config = config_of(toy_spec, tiny, *few)
    with pytest.raises(InputError, match="got 192 numbers in the windows"):
        run_correction(config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("history.csv"))


def test_a_localised_run_differs_and_leaves_etki_alone(finished, toy_spec, tiny, tmp_path):
    inject, _, _, metrics = finished
    config = config_of(toy_spec, tiny, f"corrector.inject={inject}", "eki.localised=true")
    other = run_correction(config, tmp_path / "run")
    assert other["mae"]["ETKI"] == metrics["mae"]["ETKI"]
    assert other["mae"]["EKI"] != metrics["mae"]["EKI"]
    assert other["solver_steps"] == metrics["solver_steps"]
