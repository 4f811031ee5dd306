"""Runs on a chaotic system: the warning, what a look costs, what is said of the statistics."""

import csv
import json
from contextlib import contextmanager

import pytest

from zopde import InputError, load_config
from zopde.studies.correct import run_correction
from zopde.studies.correct.looks import Signals
from zopde.studies.correct.table import table_of
from zopde.training.signal import Signal

WARNING = "the solver is chaotic, and this derivative useless"


class Notes:
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    @contextmanager
    def stage(self, title, total):
        yield lambda steps=1, text="": None

    def note(self, text):
        self.said.append(text)


def settings(*changes, labels=("SRC", "NOG", "SOL")):
    own = ["data.fine=[16]", "data.coarse=[8]", "data.skip=40", "data.steps=72", "data.train=2"]
    own += [
        "solver.options={slow=8,force=20.0}",
        "data.test=2",
        "training.batch=2",
        "non.length='2 iterations'",
    ]
    own += ["training.length='3 iterations'", "training.unroll=64", "training.nudge=0.0"]
    own += ["training.look_every=2", f"run.labels={json.dumps(labels)}", *changes]
    return load_config("quick", None, own, {"solver": {"spec": "lorenz96"}})


def rows(folder):
    with (folder / "SOL" / "seed-0" / "signal.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def chaotic(tmp_path_factory):
    folder, watcher = tmp_path_factory.mktemp("chaotic") / "run", Notes()
    return run_correction(settings(), folder, progress=watcher), folder, watcher.said


def test_a_gradient_over_too_many_steps_is_warned_of_in_one_line(chaotic):
    _, folder, said = chaotic
    (line,) = [text for text in said if WARNING in text]
    assert line.startswith("SOL, seed 0, iteration 0: the gradient over 64 steps is ")
    assert "training.nudge" in line
    assert [row["iteration"] for row in rows(folder)] == ["0", "2"]
    assert float(rows(folder)[0]["growth"]) > 100


def test_looks_are_counted_apart_and_only_where_the_derivative_passes_the_solver(chaotic):
    metrics, folder, _ = chaotic
    assert metrics["solver_steps"]["SOL"] == metrics["solver_steps"]["NOG"] == 3 * 2 * 63
    of_quality = 2 * 2 * 63  # of the exact gradient, with which NOG's is compared
    assert metrics["checking"] == {"SRC": 0, "NOG": of_quality, "SOL": 2 * 2 * (63 + 15)}
    assert not (folder / "NOG" / "seed-0" / "signal.csv").exists()


def test_looks_change_nothing_in_a_training(chaotic, tmp_path):
    metrics, _, _ = chaotic
    off = settings("training.look_every=0", labels=("SRC", "SOL"))
    without = run_correction(off, tmp_path / "run")
    assert without["mae"]["SOL"] == metrics["mae"]["SOL"]
    assert without["checking"]["SOL"] == 0
    assert not (tmp_path / "run" / "SOL" / "seed-0" / "signal.csv").exists()


def test_a_nudged_run_is_not_warned_of(tmp_path):
    watcher = Notes()
    changes = "training.nudge=0.3", "training.length='1 iteration'"
    run_correction(settings(*changes, labels=("SRC", "SOL")), tmp_path / "run", progress=watcher)
    assert not any(WARNING in text for text in watcher.said)
    assert float(rows(tmp_path / "run")[0]["growth"]) < 30


def test_errors_of_the_statistics_stand_in_the_table_of_a_loss_of_statistics(chaotic):
    metrics, _, _ = chaotic
    found = metrics["climate_error"]["SRC"]
    assert set(found) == {"mean", "variance"}
    second = table_of(metrics).also
    assert second.columns[:4] == ["label", "loss", "mean", "variance"]
    assert second.rows[0][3] == f"{found['variance']['mean']:.3g}"
    plain = {name: value for name, value in metrics.items() if name != "loss"}
    assert table_of(plain).also.columns[1] == "diverged"


def test_what_was_seen_after_the_point_of_a_resume_is_forgotten(tmp_path):
    said = []
    signals = Signals(tmp_path / "signal.csv", "SOL, seed 0", 64, said.append)
    for iteration in (0, 100, 200, 100):
        signals.tell(Signal(iteration, 0.0, 1.0, 1e6))
    with signals.file.open() as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["0", "100"]
    assert len(said) == 1
    signals.file.write_text("iteration\nmany\n")
    with pytest.raises(InputError, match="restore it, or start over with --overwrite"):
        signals.tell(Signal(200, 1.0, 0.0, 1.0))
