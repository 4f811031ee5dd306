"""Runs by forward gradients: counted, foretold, resumed, left out without a twin."""

import pytest

from zopde import run_correction
from zopde.errors import PausedError
from zopde.studies.correct import load_config


def config_of(spec, tiny, *changes):
    labels = 'run.labels=["SRC","FG","SOL"]'
    changes = [*tiny, labels, "training.init=scratch", *changes]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


@pytest.mark.parametrize("inject", ["after", "before", "forcing"])
def test_solver_steps_are_counted_and_foretold_exact(toy_spec, tiny, tmp_path, inject, forecast):
    config = config_of(toy_spec, tiny, "fg.directions=4", f"corrector.inject={inject}")
    metrics = run_correction(config, tmp_path / "run")
    steps = 12 * 2 * (2 if inject == "after" else 3)
    assert metrics["solver_steps"]["SOL"] == steps
    assert metrics["solver_steps"]["FG"] == 4 * steps
    assert metrics["queries"]["FG"] == 4 * 12
    priced = {price.label: price for price in forecast(config, next(tmp_path.glob("*.nc")))}
    assert priced["FG"].solver_steps == 4 * steps
    assert priced["FG"].queries == 4 * 12


def test_many_projected_directions_train_as_back_propagation(toy_spec, tiny, tmp_path):
    """In double precision, by plain gradient descent, every weight alike."""
    many = ["fg.combine=project", "fg.directions=60", "corrector.sizes={width=1,depth=2}"]
    many += ["training.optimizer=sgd", 'training.length="1 iteration"', "corrector.every=2"]
    many += ["run.dtype=float64"]
    found = run_correction(config_of(toy_spec, tiny, *many), tmp_path / "run")
    assert found["mae"]["FG"]["mean"] == pytest.approx(found["mae"]["SOL"]["mean"], rel=1e-6)
    assert found["mae"]["FG"]["mean"] != found["mae"]["SRC"]["mean"]


def test_an_interrupted_training_goes_on_as_if_it_had_not_been_exact(toy_spec, tiny, tmp_path):
    few = toy_spec, tiny, "fg.directions=2", 'training.length="6 iterations"'
    whole = run_correction(config_of(*few), tmp_path / "whole")
    with pytest.raises(PausedError):
        run_correction(config_of(*few, "run.solver_steps=30"), tmp_path / "cut")
    again = run_correction(config_of(*few), tmp_path / "cut", resume=True)
    assert again["mae"] == whole["mae"]
    assert again["solver_steps"] == whole["solver_steps"]


def test_without_a_twin_it_is_left_out(toy_spec, tiny, tmp_path):
    config = config_of(toy_spec.replace(":Toy", ":Blind"), tiny)
    assert set(run_correction(config, tmp_path / "run")["skipped"]) == {"FG", "SOL"}
