"""Correction runs with a validation: what is kept out, what it costs, what is kept and said."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from zopde import InputError, UnrolledObjective, Window, load_corrector
from zopde.blackbox import CountedSolver
from zopde.progress import Silent
from zopde.studies.correct import load_config, run_correction
from zopde.studies.correct.open import open_correction, reference_of
from zopde.studies.correct.problem import LOOKED_AT
from zopde.studies.correct.table import table_of
from zopde.studies.report import write_report
from zopde.training import load_checkpoint, read_history

EVERY, UNROLL = 5, 3
LOOKS = 4  # at 0, 5, 10 and 12


def config_of(spec, tiny, *changes):
    few = ['run.labels=["SRC","NON","ZO-interface"]', f"training.validate_every={EVERY}"]
    return load_config("quick", None, [*tiny, *few, *changes], {"solver": {"spec": spec}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_spec, tiny):
    folder = tmp_path_factory.mktemp("runs") / "looked"
    config = config_of(toy_spec, tiny, "data.validation=1", 'data.path="data.nc"')
    path = str(folder.parent / "data.nc")
    config = replace(config, data=replace(config.data, path=path))
    return config, folder, run_correction(config, folder)


def test_the_validation_is_kept_out_of_training_and_test(finished, tmp_path):
    config, _, metrics = finished
    problem = open_correction(config, tmp_path / "run", Silent()).problem
    reference = reference_of(config, problem.solver, tmp_path)
    data = reference.load().states.float()
    assert torch.equal(problem.train.states, data[:2])
    assert torch.equal(problem.held.states, data[2:3])
    assert torch.equal(problem.test.states, data[3:])
    torch.testing.assert_close(problem.scale, data[:2].transpose(0, 2).flatten(1).std(dim=1))
    assert metrics["stored_solver_steps"] == 2 * 12
    plain = replace(config, data=replace(config.data, validation=0))
    whole = open_correction(plain, tmp_path / "run", Silent()).problem
    assert whole.held is None
    assert torch.equal(whole.train.states, data[:3])


def test_the_best_weights_are_kept_and_are_those_of_the_least_loss(finished, tmp_path):
    config, folder, metrics = finished
    opened = open_correction(config, tmp_path / "run", Silent())
    held, unroll = opened.problem.held, UNROLL
    for label in ("NON", "ZO-interface"):
        (kept,) = metrics["validation"][label]
        place = folder / label / "seed-0"
        rows = read_history(place / "history.csv")
        losses = {row.iteration: row.validation for row in rows if row.validation is not None}
        assert set(losses) == {0, 5, 10}
        assert kept["loss"] <= min(losses.values())
        assert not kept["short"]
        starts = torch.arange(12 - unroll + 1)  # all of them: fewer than LOOKED_AT
        states = held.states[0]
        window = Window(
            None,
            torch.stack([states[start + 1 : start + 1 + unroll] for start in starts]),
            torch.stack([held.forcing[0, start : start + unroll] for start in starts]),
            states[starts],
        )
        objective = UnrolledObjective(opened.problem.solver, window, opened.problem.scale)
        with torch.no_grad():
            loss = float(objective(load_corrector(place / "model.safetensors")))
        assert loss == pytest.approx(kept["loss"], rel=1e-5)
        if kept["iteration"] in losses:
            assert losses[kept["iteration"]] == kept["loss"]


def test_looks_are_counted_in_their_own_column(finished, forecast):
    config, folder, metrics = finished
    windows = min(LOOKED_AT, 12 - UNROLL + 1)
    of_looks = LOOKS * windows * UNROLL
    assert metrics["validating"] == {"SRC": 0, "NON": of_looks, "ZO-interface": of_looks}
    assert metrics["solver_steps"]["NON"] == 0
    assert metrics["solver_steps"]["ZO-interface"] == 12 * 4 * (1 + 2 * 4 * 4)
    assert "Dotted: the loss on the validation data" in write_report([folder]).read_text()
    table = table_of(metrics)
    assert "validating" in table.columns
    assert any("by the validation" in note for note in table.notes)
    for path in (folder.parent / "data.nc", folder.parent / "not made.nc"):
        priced = {price.label: price for price in forecast(config, path)}
        assert priced["ZO-interface"].validating == of_looks
        assert priced["ZO-interface"].solver_steps == metrics["solver_steps"]["ZO-interface"]
        assert priced["SRC"].validating == 0


def test_without_a_validation_nothing_is_said_of_one(finished, tmp_path):
    config, _, _ = finished
    plain = replace(config, data=replace(config.data, validation=0))
    metrics = run_correction(plain, tmp_path / "plain")
    assert not {"validation", "validating"} & set(metrics)
    assert "validating" not in table_of(metrics).columns
    state = load_checkpoint(tmp_path / "plain" / "NON" / "seed-0" / "checkpoint.pt")
    assert "kept" not in state
    model = load_file(tmp_path / "plain" / "NON" / "seed-0" / "model.safetensors")
    assert all(torch.equal(model[name], value) for name, value in state["network"].items())


def test_patience_ends_a_run_early_and_a_line_says_so(finished, tmp_path):
    config, _, _ = finished
    rate = replace(config.training, lr=1e-12, patience=2, validate_every=2)  # nothing gets better
    run = replace(config.run, labels=("SRC", "NON"), dtype="float32")
    metrics = run_correction(replace(config, training=rate, run=run), tmp_path / "run")
    (kept,) = metrics["validation"]["NON"]
    assert kept["short"]
    assert metrics["iterations"]["NON"] == 20 + kept["iteration"] + 4 < 20 + 12
    assert not metrics["stopped_early"]
    assert any("1 of 1 trainings ended by training.patience" in n for n in table_of(metrics).notes)


def test_a_run_that_was_cut_off_ends_with_the_same_weights(finished, tmp_path, monkeypatch):
    config, folder, _ = finished

    class Killed(BaseException):
        """Like kill -9."""

    steps = CountedSolver.step
    left = iter(range(10**6))

    def step(self, *given):
        if next(left) == 45:
            raise Killed
        return steps(self, *given)

    monkeypatch.setattr(CountedSolver, "step", step)
    with pytest.raises(Killed):
        run_correction(config, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "ZO-interface" / "seed-0" / "checkpoint.pt")
    assert 0 < checkpoint["iterations"] < 12
    monkeypatch.setattr(CountedSolver, "step", steps)
    run_correction(config, tmp_path / "run", resume=True)
    for label in ("NON", "ZO-interface"):
        files = [run / label / "seed-0" / "model.safetensors" for run in (folder, tmp_path / "run")]
        one, other = map(load_file, files)
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    texts = [(run / "metrics.json").read_text() for run in (folder, tmp_path / "run")]
    one, other = map(json.loads, texts)
    for figure in ("validation", "validating", "solver_steps", "mae"):
        assert one[figure] == other[figure]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.validation=3", "less than data.train = 3"),
        ("training.patience=2", "some data.validation"),
        ("training.validate_every=0", "from 1"),
        ("data.validation=-1", "from 0"),
    ],
)
def test_what_makes_no_sense_is_refused(change, words, toy_spec, tiny):
    with pytest.raises(InputError, match=words):
        config_of(toy_spec, tiny, change)
