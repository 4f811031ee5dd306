"""Runs by the tangent: counted, shared, watched, refitted, stopped, resumed exactly."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from zopde import InputError, SolverError
from zopde.progress import Silent
from zopde.studies.correct import load_config, run_correction
from zopde.training import Optimise

pytestmark = pytest.mark.filterwarnings("ignore:the derivative in use")
SIZES = [
    *("data.coarse=[8,8]", "data.fine=[16,16]", "training.unroll=4"),
    *("interface.way=tangent", "interface.budget=320", "interface.fit=30", "interface.width=6"),
    *("interface.target=10", "interface.watch_below=0", "interface.watch_error=10"),
]
LABEL = "ZO-tangent"


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def config_of(spec, tiny, *changes, labels='"SRC","ZO-tangent"'):
    changes = [*tiny, *SIZES, f"run.labels=[{labels}]", *changes]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


def weights(folder, label=LABEL):
    return load_file(folder / label / "seed-0" / "model.safetensors")


def looks(folder, name="watch.csv"):
    text = (folder / LABEL / "seed-0" / name).read_text()
    return list(csv.DictReader(text.splitlines()))


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy_spec, tiny):
    folder = tmp_path_factory.mktemp("tangent")
    notes = Notes()
    config = config_of(toy_spec, tiny, "interface.watch_every=5", "training.look_every=0")
    return folder, run_correction(config, folder / "whole", progress=notes), notes.lines


def test_what_was_measured_is_counted(whole):
    """16 states of 5 steps, twice the check of sameness, 12 x 2 x 3 steps of training."""
    folder, metrics, lines = whole
    measured = 32 * 5 + 2
    assert metrics["solver_steps"][LABEL] == measured + 12 * 2 * 3
    assert metrics["checking"][LABEL] == 6  # looks at iterations 0, 5 and 10
    (said,) = [line for line in lines if "held out" in line]
    assert f"{measured} solver steps once" in said
    rows = looks(folder / "whole")
    assert [row["iteration"] for row in rows] == ["0", "5", "10"]
    history = looks(folder / "whole", "history.csv")
    assert float(history[5]["error"]) == pytest.approx(float(rows[1]["error"]))


def test_a_second_seed_and_another_run_measure_nothing(whole, toy_spec, tiny, monkeypatch):
    folder, metrics, _ = whole
    from zopde.tangent import rounds

    def never(*_, **__):
        raise AssertionError("fitted again")

    monkeypatch.setattr(rounds, "fit", never)
    config = config_of(toy_spec, tiny, "interface.watch_every=5")
    again = run_correction(config, folder / "again")
    assert again["mae"] == metrics["mae"]
    assert again["solver_steps"] == metrics["solver_steps"]
    assert same(weights(folder / "again"), weights(folder / "whole"))


@pytest.mark.parametrize("update", [7, 25, 20 + 30 + 5])
def test_a_run_that_is_cut_off_ends_the_same(whole, toy_spec, tiny, tmp_path, monkeypatch, update):
    """In the NON start, while the tangent is fitted, and while training; no file is shared."""
    folder, metrics, _ = whole
    config = config_of(toy_spec, tiny, "interface.watch_every=5")
    real, calls = Optimise.update, []

    def dying(self, *given):
        calls.append(given)
        if len(calls) == update:
            raise KeyboardInterrupt
        real(self, *given)

    monkeypatch.setattr(Optimise, "update", dying)
    with pytest.raises(KeyboardInterrupt):
        run_correction(config, tmp_path / "cut")
    monkeypatch.undo()
    again = run_correction(config, tmp_path / "cut", resume=True)
    assert again["mae"] == metrics["mae"]
    assert again["solver_steps"] == metrics["solver_steps"]
    assert same(weights(tmp_path / "cut"), weights(folder / "whole"))


REFIT = [
    *("interface.watch_every=4", "interface.watch_below=1.1", "interface.stop_error=10"),
]


def test_a_refit_is_made_again_after_a_kill(toy_spec, tiny, tmp_path, monkeypatch):
    config, notes = config_of(toy_spec, tiny, *REFIT), Notes()
    whole = run_correction(config, tmp_path / "whole", progress=notes)
    said = [line for line in notes.lines if "was refitted" in line]
    assert [line.split(": ")[:2] for line in said] == [
        [f"{LABEL}, seed 0", f"iteration {n}"] for n in (0, 4, 8)
    ]
    assert whole["solver_steps"][LABEL] == 162 + 12 * 2 * 3 + 3 * 40
    real, calls = Optimise.update, []

    def dying(self, *given):
        calls.append(given)
        if len(calls) == 20 + 30 + 7 + 5 + 7 + 3:  # in the second refit
            raise KeyboardInterrupt
        real(self, *given)

    (tmp_path / "other").mkdir()
    monkeypatch.setattr(Optimise, "update", dying)
    with pytest.raises(KeyboardInterrupt):
        run_correction(config, tmp_path / "other" / "cut")
    monkeypatch.undo()
    again = run_correction(config, tmp_path / "other" / "cut", resume=True)
    assert again["mae"] == whole["mae"]
    assert same(weights(tmp_path / "other" / "cut"), weights(tmp_path / "whole"))


def test_a_tangent_that_does_not_fit_ends_the_run_in_one_line(toy_spec, tiny, tmp_path):
    changes = ["interface.watch_every=4", "interface.watch_error=1e-9", "interface.stop_error=1e-9"]
    with pytest.raises(SolverError, match="after a refit, more than interface"):
        run_correction(config_of(toy_spec, tiny, *changes), tmp_path / "run")


def test_the_fallback_serves_what_the_tangent_does_not(toy_spec, tiny, tmp_path):
    bad = ["interface.watch_every=4", "interface.watch_error=1e-9", "interface.stop_error=1e-9"]
    config = config_of(toy_spec, tiny, *bad, "interface.fallback=dense")
    run_correction(config, tmp_path / "run")
    labels = '"SRC","ZO-dense"'
    run_correction(config_of(toy_spec, tiny, labels=labels), tmp_path / "dense")
    one, other = weights(tmp_path / "run"), weights(tmp_path / "dense", "ZO-dense")
    rows = looks(tmp_path / "run")
    assert [row["fallback"] for row in rows] == ["1"] * 3
    size = sum((other[name] ** 2).sum() for name in one) ** 0.5
    assert sum(((one[name] - other[name]) ** 2).sum() for name in one) ** 0.5 < 0.05 * size


def test_a_turned_tangent_is_seen_and_refitted(toy_spec, tiny, tmp_path, monkeypatch):
    """Its output turned by a quarter: every product would be wrong."""
    from zopde.studies.correct import tangent as module

    real = module.learn

    def spoilt(*given, **named):
        found = real(*given, **named)
        with torch.no_grad():
            found.tangent.leave.add_(torch.randn_like(found.tangent.leave))
        return found

    monkeypatch.setattr(module, "learn", spoilt)
    changes = ["interface.watch_every=1", "interface.watch_error=0.3", "interface.stop_error=9"]
    notes = Notes()
    run_correction(config_of(toy_spec, tiny, *changes), tmp_path / "run", progress=notes)
    errors = [float(row["error"]) for row in looks(tmp_path / "run")]
    assert errors[0] > 1
    assert min(errors) < 0.7 * errors[0]
    assert any("was refitted" in line for line in notes.lines)


@pytest.mark.slow
def test_workers_measure_the_same_bits(whole, toy_spec, tiny, tmp_path):
    folder, metrics, _ = whole
    config = config_of(toy_spec, tiny, "interface.watch_every=5", "run.workers=2")
    found = run_correction(config, tmp_path / "two")
    assert same(weights(tmp_path / "two"), weights(folder / "whole"))
    assert found["solver_steps"] == metrics["solver_steps"]


def test_a_forcing_is_learned_with_the_state(toy_spec, tiny, tmp_path):
    changes = ["corrector.inject=forcing", "training.init=scratch", "interface.budget=640"]
    config = config_of(toy_spec, tiny, *changes)
    notes = Notes()
    run_correction(config, tmp_path / "run", progress=notes)
    (said,) = [line for line in notes.lines if "held out" in line]
    assert "state: error" in said
    assert "forcing: error" in said


def test_a_budget_that_is_too_small_is_refused_before_anything_runs(toy_spec, tiny, tmp_path):
    line = r"interface\.budget: got 10 solver steps, expected at least \d+ for a tangent; raise it"
    with pytest.raises(InputError, match=line):
        run_correction(config_of(toy_spec, tiny, "interface.budget=10"), tmp_path / "run")
