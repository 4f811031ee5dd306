"""A run with workers: the same weights however many there are, and after an interruption."""

import json
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from zopde import InputError
from zopde.studies.correct import load_config, run_correction

ZO = 'run.labels=["SRC","ZO-weights"]'


def config(spec, tiny, workers, *changes):
    settings = [*tiny, ZO, f"run.workers={workers}", *changes]
    return load_config("quick", None, settings, {"solver": {"spec": spec}})


def weights(folder):
    return load_file(folder / "ZO-weights" / "seed-0" / "model.safetensors")


class Killed(BaseException):
    """Nothing of ours may handle it."""


class Kills:
    """Ends the run in the middle of the zeroth-order stage."""

    @contextmanager
    def stage(self, title, total):
        calls = []

        def advance(steps=1, text=""):
            calls.append(text)
            if title == "ZO-weights, seed 0" and len(calls) == 7:
                raise Killed

        yield advance

    def note(self, text):
        pass


def test_runs_with_any_number_of_workers_agree_and_one_resumes(tmp_path, toy_spec, tiny):
    one = run_correction(config(toy_spec, tiny, 1), tmp_path / "one")
    with pytest.raises(Killed):
        run_correction(config(toy_spec, tiny, 2), tmp_path / "two", progress=Kills())
    two = run_correction(config(toy_spec, tiny, 2), tmp_path / "two", resume=True)
    left, right = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert two["workers"] == 2
    for name in ("queries", "solver_steps", "mae"):
        assert one[name] == two[name], name
    history = [(tmp_path / n / "ZO-weights/seed-0/history.csv").read_text() for n in ("one", "two")]
    assert [line.rpartition(",")[0] for line in history[0].splitlines()] == [
        line.rpartition(",")[0] for line in history[1].splitlines()
    ]


def test_workers_count_as_this_process_does(tmp_path, toy_spec, tiny):
    here = run_correction(config(toy_spec, tiny, 0), tmp_path / "here")
    there = run_correction(config(toy_spec, tiny, 1), tmp_path / "there")
    for name in ("queries", "solver_steps", "iterations"):
        assert here[name] == there[name], name
    assert there["mae"]["ZO-weights"]["mean"] == pytest.approx(here["mae"]["ZO-weights"]["mean"])


def test_dry_run_shares_the_work_out(tmp_path, toy_spec, tiny, forecast):
    plan = {row.label: row for row in forecast(config(toy_spec, tiny, 2), tmp_path / "none.nc")}
    alone = {row.label: row for row in forecast(config(toy_spec, tiny, 0), tmp_path / "none.nc")}
    assert plan["ZO-weights"].queries == alone["ZO-weights"].queries
    assert plan["ZO-weights"].seconds > 0


@pytest.mark.parametrize("dry", [True, False])
def test_solver_that_cannot_be_sent_raises_before_anything(dry, tmp_path, toy_spec, tiny, forecast):
    spec = toy_spec.replace(":Toy", ":Unpicklable")
    with pytest.raises(InputError, match=r"what workers need: got .*that pickle; define"):
        (forecast if dry else run_correction)(config(spec, tiny, 1), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["run.workers=-1", "run.threads=0", "run.workers=1.5"])
def test_numbers_raise(change, toy_spec, tiny):
    with pytest.raises(InputError, match=change.partition("=")[0]):
        config(toy_spec, tiny, 1, change)


def test_resuming_without_workers_what_began_with_them_raises(tmp_path, toy_spec, tiny):
    run_correction(config(toy_spec, tiny, 1, 'run.labels=["SRC"]'), tmp_path / "run")
    with pytest.raises(InputError, match=r"setting 'run.workers': got 0, expected 1"):
        run_correction(
            config(toy_spec, tiny, 0, 'run.labels=["SRC"]'), tmp_path / "run", resume=True
        )
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["workers"] == 1
