"""Who hears of a run while it goes on, and what a run may spend before it pauses."""

import json
import sys
from contextlib import suppress

import pytest

from zopde.errors import InputError, PausedError
from zopde.studies.budget import Budget
from zopde.studies.correct import load_config, run_correction
from zopde.training import Event, TensorBoardCallback, TrackioCallback


def config_of(spec, tiny, *more):
    labels = 'run.labels=["SRC","NOG","ZO-interface"]'
    changes = [*tiny, labels, "training.init=scratch", *more]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy_spec, tiny):
    """A run that nothing stops, and what it told."""
    events, folder = [], tmp_path_factory.mktemp("whole") / "run"
    metrics = run_correction(config_of(toy_spec, tiny), folder, callbacks=[events.append])
    return metrics, events


def same(one, other):
    figures = ("mae", "solver_steps", "queries", "parameters")
    return all(one[name] == other[name] for name in figures)


def test_a_callback_hears_of_each_iteration_training_and_the_run(whole):
    metrics, events = whole
    kinds = [(e.kind, e.label) for e in events]
    trained = ("NOG", "ZO-interface")
    expected = [("training", "SRC")]
    for label in trained:
        expected += [("iteration", label)] * 12 + [("training", label)]
    assert kinds == [*expected, ("run", "")]
    losses = [e.figures["loss"] for e in events if e.kind == "iteration" and e.label == "NOG"]
    assert len(set(losses)) == 12
    ends = {e.label: e.figures for e in events if e.kind == "training"}
    for label in ("SRC", *trained):
        assert ends[label]["mae"] == pytest.approx(metrics["mae"][label]["mean"])
        assert ends[label]["solver_steps"] == metrics["solver_steps"][label]
    assert events[-1].figures == metrics


def test_resuming_what_is_finished_tells_of_trainings_but_of_no_iteration(tmp_path, toy_spec, tiny):
    config, heard = config_of(toy_spec, tiny), []
    first = run_correction(config, tmp_path / "run")
    run_correction(config, tmp_path / "run", resume=True, callbacks=[heard.append])
    assert [event.kind for event in heard] == ["training"] * 3 + ["run"]
    assert all(event.figures["all_steps"] == 0 for event in heard[:1])
    assert heard[1].figures["all_steps"] >= heard[1].figures["solver_steps"] > 0
    assert heard[-1].figures["mae"] == first["mae"]


@pytest.mark.parametrize(
    ("callbacks", "got"), [(print, "a function"), ([None], "None"), ("f", "f")]
)
def test_what_is_no_list_of_callbacks_is_refused(callbacks, got, tmp_path, toy_spec, tiny):
    with pytest.raises(InputError, match=rf"callbacks: got '?{got}.*callbacks=\[function\]"):
        run_correction(config_of(toy_spec, tiny), tmp_path / "run", callbacks=callbacks)
    assert not (tmp_path / "run").exists()


def test_a_callback_that_raises_loses_no_iteration(whole, tmp_path, toy_spec, tiny):
    def impatient(event):
        if event.kind == "iteration" and event.label == "NOG" and event.figures["iteration"] == 6:
            raise RuntimeError("enough")

    config = config_of(toy_spec, tiny, "run.checkpoint_seconds=1e9")
    with pytest.raises(RuntimeError, match="enough"):
        run_correction(config, tmp_path / "run", callbacks=[impatient])
    heard = []
    again = run_correction(config, tmp_path / "run", resume=True, callbacks=[heard.append])
    assert next(e.figures["iteration"] for e in heard if e.kind == "iteration") == 7
    assert same(again, whole[0])


def test_a_run_pauses_at_its_solver_steps_and_goes_on_exactly(whole, tmp_path, toy_spec, tiny):
    metrics, _ = whole
    steps = metrics["solver_steps"]
    limit = steps["NOG"] + steps["ZO-interface"] // 2
    folder = tmp_path / "run"
    config = config_of(toy_spec, tiny, f"run.solver_steps={limit}")
    with pytest.raises(PausedError, match=r"run.solver_steps allows"):
        run_correction(config, folder)
    assert not (folder / "metrics.json").exists()
    with pytest.raises(PausedError):  # spent is spent, also by an earlier start
        run_correction(config, folder, resume=True)
    more = config_of(toy_spec, tiny, "run.solver_steps=0")
    assert same(run_correction(more, folder, resume=True), metrics)


def test_looks_and_comparisons_count_to_the_budget(tmp_path, toy_spec, tiny):
    more = ["data.validation=1", "training.validate_every=1", "run.solver_steps=200"]
    told = []
    with pytest.raises(PausedError):
        run_correction(config_of(toy_spec, tiny, *more), tmp_path / "run", callbacks=[told.append])
    (last,) = (event.figures for event in told[-1:])
    assert last["all_steps"] >= 200 > last["solver_steps"]
    done = run_correction(
        config_of(toy_spec, tiny, *more[:2], "run.solver_steps=0"), tmp_path / "run", resume=True
    )
    whole = run_correction(config_of(toy_spec, tiny, *more[:2]), tmp_path / "whole")
    assert same(done, whole)


def test_a_budget_that_is_large_enough_changes_nothing(whole, tmp_path, toy_spec, tiny):
    config = config_of(toy_spec, tiny, "run.solver_steps=1000000", "run.hours=10")
    assert same(run_correction(config, tmp_path / "run"), whole[0])


def test_hours_are_of_one_start_and_each_start_gets_on(whole, tmp_path, toy_spec, tiny):
    folder, starts = tmp_path / "run", 0
    while not (folder / "metrics.json").exists():
        starts += 1
        assert starts < 30
        config = config_of(toy_spec, tiny, "run.hours=1e-6")
        with suppress(PausedError):
            run_correction(config, folder, resume=starts > 1)
    assert starts > 12  # an iteration each
    assert same(json.loads((folder / "metrics.json").read_text()), whole[0])


def test_a_run_pauses_before_an_iteration_that_would_not_end_in_time(monkeypatch):
    clock = iter([100.0, 400.0, 500.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    budget = Budget(hours=700 / 3600, began=0.0)
    budget(Event("iteration", "NOG", 0, {"all_steps": 1}))
    budget(Event("iteration", "NOG", 0, {"all_steps": 2}))  # it took 300 s
    with pytest.raises(PausedError):
        budget(Event("iteration", "NOG", 0, {"all_steps": 3}))  # 500 + 300 > 700


def test_tensorboard_gets_curves_and_scores(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    callback = TensorBoardCallback(tmp_path)
    for iteration, loss in enumerate([3.0, 2.0]):
        callback(Event("iteration", "NOG", 1, {"iteration": iteration, "loss": loss}))
    callback(Event("training", "NOG", 1, {"mae": 0.5, "stopped": ""}))
    callback(Event("run"))
    read = events.EventAccumulator(str(tmp_path))
    read.Reload()
    drawn = [(s.step, s.value) for s in read.Scalars("NOG/seed-1/iteration/loss")]
    assert drawn == [(0, 3.0), (1, 2.0)]
    assert [s.value for s in read.Scalars("NOG/seed-1/training/mae")] == [0.5]


def test_without_its_package_a_callback_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        TensorBoardCallback(tmp_path)


def test_trackio_gets_a_run_for_each_training(monkeypatch):
    told = []

    class Trackio:
        def __getattr__(self, name):
            return lambda *given, **named: told.append((name, *given, *named.values()))

    monkeypatch.setitem(sys.modules, "trackio", Trackio())
    callback = TrackioCallback("flows")
    callback(Event("iteration", "NOG", 0, {"iteration": 0, "loss": 3.0, "error": None}))
    callback(Event("training", "NOG", 0, {"mae": 0.5, "stopped": ""}))
    callback(Event("iteration", "ID", 1, {"iteration": 0, "loss": 2.0}))
    callback(Event("run", figures={"mae": {}}))
    assert told == [
        ("init", "flows", "NOG, seed 0", "allow"),
        ("log", {"iteration/loss": 3.0}),
        ("log", {"training/mae": 0.5}),
        ("finish",),
        ("init", "flows", "ID, seed 1", "allow"),
        ("log", {"iteration/loss": 2.0}),
        ("finish",),
    ]
