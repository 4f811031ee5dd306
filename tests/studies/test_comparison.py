"""`zopde compare`: what the budget pays, how rates are chosen, what the curve says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from zopde import InputError, load_corrector
from zopde.errors import PausedError
from zopde.files import read_rows
from zopde.progress import Silent
from zopde.report.compared import Race, draw_race
from zopde.studies.correct.compare import load_comparison, run_comparison
from zopde.studies.correct.compare.open import open_comparison
from zopde.studies.correct.compare.plan import Count, count_of
from zopde.studies.correct.compare.show import table_of
from zopde.studies.correct.compare.study import STUDY
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.open import open_correction
from zopde.studies.correct.train import fit_label, label_stage
from zopde.studies.folder import RunFolder
from zopde.studies.report import write_report
from zopde.studies.run import Place, price_study
from zopde.training import fit, read_history
from zopde.zo import kalman

BUDGET, UNROLL, BATCH, ENTRIES, MEMBERS = 400, 3, 2, 32, 4
ROWS = ["SRC", "NON", "NOG", "ZO-dense", "ES", "EKI"]
FORWARD = BATCH * (UNROLL - 1)
EACH = {"NOG": FORWARD, "ZO-dense": FORWARD * (1 + ENTRIES), "EKI": FORWARD * (MEMBERS + 1)}
# The first product of the dense way is exact, so nothing compares it; its noise is looked at.


def config_of(spec, tiny, *changes):
    few = [f"compare.budget={BUDGET}", "compare.looks=4", f"eki.members={MEMBERS}"]
    more = [f"es.members={MEMBERS}", "training.look_every=0", "run.checkpoint_seconds=1e9"]
    more += changes
    return load_comparison("quick", None, [*tiny, *few, *more], {"solver": {"spec": spec}})


def rows_of(labels):
    return f"run.labels={json.dumps(labels)}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_spec, tiny):
    folder = tmp_path_factory.mktemp("compare") / "run"
    config = config_of(toy_spec, tiny, rows_of(ROWS), "run.seeds=[0,1]")
    return config, folder, run_comparison(config, folder)


def curve_of(folder, label, seed=0):
    return json.loads((folder / label / f"seed-{seed}" / "curve.json").read_text())


def test_iterations_are_what_the_budget_pays_exact(finished):
    _, folder, metrics = finished
    for label, each in EACH.items():
        assert metrics["iterations"][label] - 20 == BUDGET // each  # 20 of NON-start
        assert metrics["solver_steps"][label] == BUDGET // each * each
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["NON"] == {"iterations": 12, "least": 0, "check": 0, "trial": 0}
    assert plan["ES"]["check"] == FORWARD
    for label in ROWS[2:]:
        spent = curve_of(folder, label)[-1]["solver_steps"]
        assert BUDGET - plan[label]["least"] < spent <= BUDGET


@pytest.mark.parametrize(("label", "off"), [("ES", 0.0), ("ZO-weights", 0.1)])
def test_what_verifies_probes_is_counted_in_solver_steps(label, off, toy_spec, tiny, tmp_path):
    config = config_of(toy_spec, tiny, rows_of(["SRC", label]), "compare.budget=10000")
    opened = open_comparison(config, tmp_path / "run", Silent(), open_correction)
    opened = opened.lasting(5, 1e-3)
    stage = label_stage(opened, LABELS[label], network := opened.new_network(0), 0)
    what = stage.gradient, stage.schedule.optimise, 5, tmp_path / "fit"
    cost = fit(network, stage.objective_at, *what, lambda: stage.counter.steps)
    count = count_of(opened, label)
    assert stage.counter.compared == cost.checking * count.check > 0
    # Later masks of ZO-weights may move weights of other layers than the first.
    assert count(5) == pytest.approx(stage.counter.steps + stage.counter.compared, rel=off)


LEARNED = ["emu.fit=5", "emu.refit=2", "interface.budget=160", "interface.fit=5"]
LEARNED += ["fg.directions=3", "cv.directions=3"]


@pytest.mark.filterwarnings("ignore:the derivative in use")
@pytest.mark.parametrize(
    ("label", "base"),
    [("EMU", "emulator"), ("FG", "emulator")]
    + [("CV", base) for base in ("identity", "bank", "tangent", "emulator")],
)
def test_foreseen_steps_are_taken(label, base, toy_spec, tiny, tmp_path):
    """With those of looks at what is learned: at iterations 0 and 10."""
    quiet = "interface.watch_below=0", "interface.watch_error=1e9"  # nothing is mended
    what = rows_of(["SRC", label]), f"cv.base={base}", *LEARNED, *quiet
    config = config_of(toy_spec, tiny, "compare.budget=10000", *what)
    opened = open_comparison(config, tmp_path / "run", Silent(), open_correction)
    place = Place(RunFolder(tmp_path / "run"), Silent())
    foreseen = count_of(opened, label)(11)
    cost = fit_label(opened.lasting(11, 1e-3), label, opened.new_network(0), 0, place)
    taken = cost.solver_steps + cost.checking
    if base == "tangent":  # which is fitted from so many steps at the most
        assert taken <= foreseen <= taken + opened.interface.budget
    else:
        assert foreseen == taken > 11 * FORWARD


@pytest.mark.parametrize(
    ("once", "each", "looks", "budget", "iterations"),
    [(0, 7, 0, 20, 2), (0, 7, 0, 21, 3), (5, 7, 0, 20, 2), (21, 1, 0, 20, 0), (0, 2, 3, 22, 6)],
)
def test_affordable_exact(once, each, looks, budget, iterations):
    """With `looks`, every second iteration begins with one that takes so many steps."""
    count = Count(once, each, lambda n: looks * -(-n // 2), 1)
    assert count.affordable(budget) == iterations
    assert iterations == 0 or count(iterations) <= budget < count(iterations + 1)


def test_the_rate_of_the_least_validation_loss_is_taken_for_every_seed(finished):
    config, folder, metrics = finished
    lr = config.training.lr
    for label in ROWS[1:5]:
        kept = json.loads((folder / label / "seed-0" / "tuning.json").read_text())
        losses = {float(rate): loss for rate, loss in kept["losses"].items()}
        assert sorted(losses) == pytest.approx([lr / 3, lr, 3 * lr], rel=1e-3)
        assert metrics["learning_rate"][label] == kept["found"]["rate"]
        chosen = min(losses, key=losses.get)
        assert metrics["learning_rate"][label] == pytest.approx(chosen, rel=1e-3)
        assert not (folder / label / "seed-1" / "tuning.json").exists()
    assert metrics["learning_rate"]["EKI"] is metrics["learning_rate"]["SRC"] is None
    trials = round(0.25 * (BUDGET // FORWARD))
    rows = read_history(next((folder / "NOG" / "seed-0" / "tuning").iterdir()) / "history.csv")
    assert len(rows) == trials
    # Looks at 0, every quarter, and the end, of windows of the validation.
    windows = 12 - UNROLL + 1
    looks = len({*range(0, trials, -(-trials // 4)), trials})
    assert metrics["tuning"]["NOG"] == 3 * (trials * FORWARD + looks * windows * UNROLL)
    assert metrics["tuning"]["NON"] == metrics["validating"]["NON"] // 5 * 4 * 3  # 4 looks of 5


def test_the_curve_ends_at_the_error_in_the_table_and_starts_at_that_of_the_start(finished):
    _, folder, metrics = finished
    for label in ROWS[1:]:
        ends, starts = [], []
        for seed in (0, 1):
            points = curve_of(folder, label, seed)
            assert [p["solver_steps"] for p in points] == sorted(p["solver_steps"] for p in points)
            ends.append(points[-1]["mae"])
            starts.append(points[0]["mae"])
            assert points[0]["iteration"] == 0
        assert sum(ends) / 2 == pytest.approx(metrics["mae"][label]["mean"], rel=1e-5)
        begun = [curve_of(folder, "NOG", seed)[0]["mae"] for seed in (0, 1)]
        if label != "NON":  # whose training is the start, gone on
            assert starts == begun
    rows = read_rows(folder / "curves.csv")
    assert rows[0] == ["label", "seed", "iteration", "solver_steps", "seconds", "mae"]
    assert {(row[0], row[1]) for row in rows[1:]} == {(k, s) for k in ROWS[1:] for s in "01"}
    assert not list(folder.rglob("looks"))


def test_the_table_is_written_three_times(finished):
    _, folder, metrics = finished
    shown = table_of(metrics)
    assert [row[0] for row in shown.rows] == ROWS
    assert shown.columns[-3:] == ["tuning", "learning\nrate", "vs NON\nby seed"]
    assert read_rows(folder / "comparison.csv")[1:] == [[*map(str, row)] for row in shown.rows]
    text = (folder / "comparison.md").read_text()
    assert all(f"| {' | '.join(row)} |" in text for row in shown.rows)
    assert (folder / "comparison.png").stat().st_size > 10_000


def test_labels_are_set_beside_non_with_the_same_seed(finished):
    metrics = json.loads(json.dumps(finished[2]))
    metrics["mae"]["NON"]["runs"] = [[1.0, 3.0], [0.1, 0.3]]
    metrics["mae"]["NOG"]["runs"] = [[1.0, 2.0], [0.2, 0.3]]  # 0.75 and 1.25 of them
    metrics["mae"]["ES"]["runs"] = [[None, 2.0], [0.1, 0.2]]
    metrics["mae"]["EKI"]["runs"] = [[None, 2.0], [None, 0.2]]
    beside = {row[0]: row[-1] for row in table_of(metrics).rows}
    assert beside["SRC"] == beside["NON"] == ""
    assert beside["NOG"] == "+0.0 %, 1 of 2"
    assert beside["ES"] == "-25.0 %, 1 of 2"
    assert beside["EKI"] == "diverged"


def test_labels_that_never_leave_their_start_share_one_line():
    along = np.array([0.0, 50.0, 100.0])
    flat = [Race(label, along, along, np.full((2, 3), 0.5)) for label in ("ES", "EKI")]
    races = [*flat, Race("NOG", along, along, np.array([[0.5, 0.4, 0.3], [0.5, 0.5, 0.5]]))]
    told = [line.get_label() for line in draw_race(races, {"NON": [0.4, 0.5]}).axes[0].lines]
    assert "no better than the start: ES, EKI" in told
    assert "NOG" in told
    assert "ES" not in told


def test_a_report_a_model_and_a_dry_run_work_as_of_a_correction(finished, tmp_path):
    config, folder, metrics = finished
    page = write_report([folder], tmp_path / "page.html").read_text()
    assert "Race" in page
    assert load_corrector(folder)
    opened = STUDY.sample(config, tmp_path / "none", Silent())
    prices = {price.label: price for price in price_study(STUDY, opened, Silent())}
    assert set(prices) == {"data", *ROWS}
    for label in ["NON", *EACH]:
        for figure in "iterations", "solver_steps", "validating":  # of both seeds
            assert getattr(prices[label], figure) == 2 * metrics[figure][label]
        assert prices[label].tuning == metrics["tuning"][label]  # with the first seed alone
    assert not (tmp_path / "none").exists()


def test_a_paused_comparison_goes_on_exactly(finished, tmp_path):
    config, folder, metrics = finished
    for limit in (700, 2500):  # in a trial, and later
        run = replace(config.run, solver_steps=limit)
        with pytest.raises(PausedError):
            run_comparison(replace(config, run=run), tmp_path / "run", resume=limit > 700)
    again = run_comparison(config, tmp_path / "run", resume=True)
    for figure in ("mae", "tuning", "learning_rate", "solver_steps", "validation"):
        assert again[figure] == metrics[figure]
    for label in ROWS[1:]:
        one, other = (curve_of(f, label, 1) for f in (folder, tmp_path / "run"))
        assert [(p["iteration"], p["mae"]) for p in one] == [
            (p["iteration"], p["mae"]) for p in other
        ]
        files = [f / label / "seed-1" / "model.safetensors" for f in (folder, tmp_path / "run")]
        whole, resumed = map(load_file, files)
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.filterwarnings("ignore:the derivative in use")
def test_emulators_and_slopes_are_compared_and_go_on_exactly(toy_spec, tiny, tmp_path):
    rows = rows_of(["SRC", "EMU", "CV", "FG"])
    config = config_of(toy_spec, tiny, rows, "compare.budget=60", "compare.rates=2", *LEARNED)
    metrics = run_comparison(config, tmp_path / "whole")
    for label in ("EMU", "CV", "FG"):
        spent = curve_of(tmp_path / "whole", label)[-1]["solver_steps"]
        assert spent == metrics["solver_steps"][label] + metrics["checking"][label]
        assert 60 - 4 * FORWARD - 4 < spent <= 60  # less than an iteration and a look remain
    limit = sum(metrics["tuning"].values()) // 2
    paused = replace(config, run=replace(config.run, solver_steps=limit))
    with pytest.raises(PausedError):
        run_comparison(paused, tmp_path / "run")
    again = run_comparison(config, tmp_path / "run", resume=True)
    for figure in ("mae", "tuning", "learning_rate", "solver_steps", "checking"):
        assert again[figure] == metrics[figure]


def test_what_the_budget_does_not_pay_has_no_number(toy_spec, tiny, tmp_path):
    rows = rows_of(["SRC", "NOG", "ZO-dense"])
    poor = f"compare.budget={EACH['ZO-dense'] - 1}"
    metrics = run_comparison(config_of(toy_spec, tiny, rows, poor), tmp_path / "run")
    assert metrics["unpaid"] == {"ZO-dense": EACH["ZO-dense"]}
    assert "ZO-dense" not in metrics["mae"]
    shown = table_of(metrics)
    assert shown.rows[-1][:3] == ["ZO-dense", "unpaid", ""]
    assert "takes 132 solver steps" in shown.notes[0]


@pytest.mark.parametrize(
    ("change", "label", "why"),
    [
        ("corrector.inject=before", "NOG", "they have no gradient"),
        ("training.loss=relative", "ETKI", "residuals"),
        ("training.init=scratch", "ZO-weights-scratch", "starts from scratch"),
        ("training.init=non", "ZO-interface", "a row of its own"),
        ("training.unroll=1", "PUSH", "push.steps"),
        ("data.train=3", "ZO-coloured", "radius"),  # 4 x 4 cells
    ],
)
def test_labels_that_do_not_suit_are_left_out_with_a_reason(
    change, label, why, toy_spec, tiny, tmp_path
):
    config = config_of(toy_spec, tiny, change)
    opened = open_comparison(config, tmp_path / "run", Silent(), open_correction)
    assert label not in opened.possible
    assert why in opened.skipped[label]
    assert "\n" not in opened.skipped[label]
    assert {"ZO-dense", "ES", "SOL", "ID"} <= set(opened.possible)


@pytest.mark.parametrize("rows", [[], [rows_of(["SRC", "NOG", "EKI"])]])
def test_eki_is_localised_among_others(rows, toy_spec, tiny, tmp_path):
    config = config_of(toy_spec, tiny, "eki.localised=true", *rows)
    opened = open_comparison(config, tmp_path / "run", Silent(), open_correction)
    assert {"NOG", "EKI"} <= set(opened.possible)
    stage = label_stage(opened, LABELS["EKI"], opened.new_network(0), 0)
    assert stage.gradient.localised
    assert config.with_labels("NOG", "EKI").eki.localised


def test_a_label_alone_is_left_out_where_it_cannot_be_localised(
    toy_spec, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(kalman, "MOST_LOCALISED", 1)
    config = config_of(toy_spec, tiny, "eki.localised=true", rows_of(["SRC", "NOG", "EKI"]))
    opened = open_comparison(config, tmp_path / "run", Silent(), open_correction)
    assert opened.possible == ["SRC", "NOG"]
    assert "eki.localised" in opened.skipped["EKI"]


def test_a_black_box_has_no_row_for_its_twin(toy_spec, tiny, tmp_path):
    config = config_of(toy_spec.replace("Toy", "Blind"), tiny)
    opened = open_comparison(config, tmp_path / "run", Silent(), open_correction)
    assert opened.skipped["SOL"] == "the solver has no differentiable twin"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("compare.budget=0", "compare.budget: got 0"),
        ("compare.factor=1", "compare.factor: got 1"),
        ("compare.looks=0", "compare.looks"),
        ("compare.share=0", "compare.share"),
        ("compare.budgt=3", "did you mean 'compare.budget'"),
        ("data.validation=0", "data.validation: got 0"),
        ("data.train=1", "data.validation"),
        (rows_of(["SRC", "ETKY"]), "ETKI"),
    ],
)
def test_bad_settings_are_refused(change, words, toy_spec, tiny):
    with pytest.raises(InputError, match=words):
        config_of(toy_spec, tiny, change)


@pytest.mark.parametrize("change", [rows_of(["SRC", "ETKI"]), "training.loss=relative"])
def test_what_eki_alone_can_have_is_refused_without_it(change, toy_spec, tiny):
    with pytest.raises(InputError, match=r"eki\.localised: got true .* expected EKI among them"):
        config_of(toy_spec, tiny, "eki.localised=true", change)
