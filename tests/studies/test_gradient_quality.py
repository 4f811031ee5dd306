"""What a run says of its gradients: files, figures, table, page; what it counts, and foresees."""

import csv
import json
import math

import pytest
from safetensors.torch import load_file

from zopde import load_config, run_correction
from zopde.errors import InputError
from zopde.progress import Silent
from zopde.studies.correct.compare import load_comparison
from zopde.studies.correct.compare.open import open_comparison
from zopde.studies.correct.compare.plan import count_of
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.open import open_correction
from zopde.studies.correct.quality import means, read_qualities, said
from zopde.studies.correct.table import table_of
from zopde.studies.correct.train import fit_label
from zopde.studies.folder import RunFolder
from zopde.studies.report import write_report
from zopde.studies.run import Place
from zopde.training import Optimise
from zopde.training.quality import EVALUATIONS, Quality

TABLED = ["SRC", "NON", "NOG", "ID", "ZO-dense", "ZO-random", "FG", "ES", "ZO-weights", "SOL"]
RATED = TABLED[2:-1]
DRAWN = ["ZO-random", "FG", "ZO-weights"]
LENGTH, EVERY, FORWARD = 4, 2, 2 * 2  # two windows of two steps behind the first
LOOKS = [0, 2]
SIZES = [
    *(f"training.length='{LENGTH} iterations'", f"training.look_every={EVERY}"),
    *("interface.directions=3", "fg.directions=3", "es.members=4", "zo.chunk=8"),
    *("training.optimizer=sgd", "interface.watch_every=0", "non.length='5 iterations'"),
]
BLIND = """
from toy_solver import Toy

class Blind(Toy):
    differentiable_twin = None
"""


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def config_of(spec, tiny, *changes, labels=TABLED):
    changes = [*tiny, *SIZES, f"run.labels={json.dumps(labels)}", *changes]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


def rows_of(folder, label):
    with (folder / label / "seed-0" / "gradient.csv").open() as file:
        return list(csv.DictReader(file))


def weights(folder, label):
    return load_file(folder / label / "seed-0" / "model.safetensors")


@pytest.fixture
def blind(tmp_path, toy_spec, monkeypatch):
    monkeypatch.syspath_prepend(toy_spec.rpartition("/")[0])
    (tmp_path / "blind.py").write_text(BLIND)
    return f"{tmp_path / 'blind.py'}:Blind"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_spec, tiny):
    folder, notes = tmp_path_factory.mktemp("rated") / "run", Notes()
    config = config_of(toy_spec, tiny)
    return config, folder, run_correction(config, folder, progress=notes), notes.lines


def test_estimates_have_a_file_and_a_line_and_nothing_else_has(finished):
    _, folder, metrics, lines = finished
    for label in TABLED:
        path = folder / label / "seed-0" / "gradient.csv"
        told = [line for line in lines if line.startswith(f"{label}, seed 0: cosine with")]
        assert path.exists() == (len(told) == 1) == (label in RATED)
        assert LABELS[label].estimates == (label in RATED)
    for label in RATED:
        rows = rows_of(folder, label)
        assert [int(row["iteration"]) for row in rows] == LOOKS
        assert {row["reference"] for row in rows} == {"twin"}
        assert [math.isnan(float(row["variance"])) for row in rows] == [label not in DRAWN] * 2
    assert int(rows_of(folder, "ES")[0]["queries"]) == 5
    assert set(metrics["gradient"]) == set(RATED)


def test_a_measured_derivative_is_the_exact_one_and_others_are_not(finished):
    _, _, metrics, _ = finished
    found = metrics["gradient"]
    assert found["ZO-dense"]["cosine"] == pytest.approx(1, abs=1e-4)
    assert found["ZO-dense"]["error"] < 0.02
    assert found["NOG"]["error"] > 5 * found["ZO-dense"]["error"]
    assert found["FG"]["cosine"] < 0.9
    assert found["FG"]["variance"] > found["ZO-random"]["variance"] > 0
    assert found["ES"]["error"] is found["ES"]["variance"] is None, "its losses are shaped"


def test_the_mean_of_all_looks_is_a_column_of_the_table(finished, tmp_path):
    _, folder, metrics, _ = finished
    table = table_of(metrics)
    assert table.columns[-1] == "cosine"
    cells = {row[0]: row[-1] for row in table.rows}
    assert cells["SOL"] == cells["SRC"] == cells["NON"] == ""
    assert cells["FG"] == f"{metrics['gradient']['FG']['cosine']:.2f}"
    before = {name: value for name, value in metrics.items() if name != "gradient"}
    assert "cosine" not in table_of(before).columns
    write_report([folder], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "variance over the estimate" in page


def test_steps_of_looks_are_counted_apart_and_foreseen(finished, forecast):
    config, folder, metrics, _ = finished
    prices = {price.label: price for price in forecast(config, next(folder.parent.glob("*.nc")))}
    for label in ("NOG", "ID", "ZO-dense"):
        assert metrics["checking"][label] == len(LOOKS) * FORWARD
    assert metrics["checking"]["FG"] == len(LOOKS) * FORWARD * (1 + 3)
    for label in set(RATED) - {"ZO-weights", "ES"}:
        assert prices[label].checking == metrics["checking"][label]
        assert prices[label].solver_steps == metrics["solver_steps"][label]
    # Of evaluations: what verifies probes is among them.
    for label in ("ES", "ZO-weights"):
        assert prices[label].checking == pytest.approx(metrics["checking"][label], rel=0.2)


def test_a_training_is_the_same_without_looks(finished, toy_spec, tiny, tmp_path):
    _, folder, metrics, _ = finished
    off = run_correction(config_of(toy_spec, tiny, "training.look_every=0"), tmp_path / "run")
    assert "gradient" not in off
    for label in RATED:
        one, other = weights(folder, label), weights(tmp_path / "run", label)
        assert all(one[name].equal(other[name]) for name in one)
        names = ("loss", "gradient_norm", "queries", "solver_steps", "variance")
        kept = []
        for root in (folder, tmp_path / "run"):
            with (root / label / "seed-0" / "history.csv").open() as file:
                kept.append([[row[name] for name in names] for row in csv.DictReader(file)])
        assert kept[0] == kept[1]
    assert off["solver_steps"] == metrics["solver_steps"]


def test_a_resumed_run_has_the_same_looks_and_weights(
    finished, toy_spec, tiny, tmp_path, monkeypatch
):
    """Killed in the last iteration, behind a look that belongs to a checkpoint of before."""
    _, whole, metrics, _ = finished
    update = Optimise.update
    for label in ("ZO-random", "ZO-weights"):
        calls = []

        def dying(self, *given, calls=calls):
            calls.append(given)
            if len(calls) == 5 + 3:  # NON-start first
                raise KeyboardInterrupt
            update(self, *given)

        slow = config_of(toy_spec, tiny, "run.checkpoint_seconds=1e9", labels=["SRC", label])
        monkeypatch.setattr(Optimise, "update", dying)
        with pytest.raises(KeyboardInterrupt):
            run_correction(slow, tmp_path / label)
        assert len(rows_of(tmp_path / label, label)) == 2
        monkeypatch.setattr(Optimise, "update", update)
        found = run_correction(slow, tmp_path / label, resume=True)
        assert rows_of(tmp_path / label, label) == rows_of(whole, label)
        one, other = weights(tmp_path / label, label), weights(whole, label)
        assert all(one[name].equal(other[name]) for name in one)
        assert found["checking"][label] == metrics["checking"][label]


def test_without_a_twin_differences_tell(blind, tiny, tmp_path, forecast):
    labels = ["SRC", "NOG", "ZO-dense", "ZO-random"]
    config = config_of(blind, tiny, "run.dtype=float64", labels=labels)
    metrics = run_correction(config, tmp_path / "run")
    for label in labels[1:]:
        assert {row["reference"] for row in rows_of(tmp_path / "run", label)} == {"differences"}
    assert metrics["gradient"]["ZO-dense"]["cosine"] == pytest.approx(1, abs=1e-3)
    assert metrics["checking"]["NOG"] == len(LOOKS) * EVALUATIONS * FORWARD
    prices = {p.label: p for p in forecast(config, next(tmp_path.glob("*.nc")))}
    for label in labels[1:]:
        assert prices[label].checking == metrics["checking"][label]


@pytest.mark.parametrize("label", ["NOG", "ZO-random", "FG", "ES"])
def test_a_comparison_pays_the_looks_from_the_budget(label, toy_spec, tiny, tmp_path):
    changes = [*tiny, *SIZES, f'run.labels=["SRC","{label}"]', "data.validation=1"]
    tables = {"solver": {"spec": toy_spec}}
    config = load_comparison("quick", None, [*changes, "compare.budget=5000"], tables)
    opened = open_comparison(config, tmp_path / "run", Silent(), open_correction)
    count, place = count_of(opened, label), Place(RunFolder(tmp_path / "run"), Silent())
    cost = fit_label(opened.lasting(3, 1e-3), label, opened.new_network(0), 0, place)
    assert count(3) == cost.solver_steps + count.check * cost.checking > 3 * FORWARD


def test_a_line_shows_the_last_look_and_few_others():
    looks = [Quality(i, i / 100, 0.0, math.nan, 1, "twin") for i in range(0, 100, 10)]
    text = said(looks)
    assert text.startswith("cosine with the exact gradient 0.00 at iteration 0, ")
    assert text.endswith("0.90 at 90 (of the twin)")
    assert text.count(" at ") <= 4
    assert said(looks[:1]) == "cosine with the exact gradient 0.00 at iteration 0 (of the twin)"


def test_the_mean_leaves_out_what_is_not_known():
    rows = [Quality(0, 0.5, 1.0, math.nan, 1, "twin"), Quality(1, math.nan, 3.0, math.nan, 1, "")]
    assert means(rows) == {"cosine": 0.5, "error": 2.0, "variance": None}


def test_a_damaged_file_is_named_in_one_line(tmp_path):
    path = tmp_path / "gradient.csv"
    assert read_qualities(path) == []
    path.write_text("iteration\nmany\n")
    with pytest.raises(InputError, match="restore it, or start over with --overwrite"):
        read_qualities(path)
