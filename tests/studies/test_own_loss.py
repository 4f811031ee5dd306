"""A correction run that is judged by something else than every cell at every step."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from zopde import Grid, InputError, Trajectories, load_config, plugins, write_report
from zopde.data.trajectories import load_rollout
from zopde.studies.correct import run_correction
from zopde.studies.correct.evaluate import evaluate
from zopde.studies.correct.table import table_of

HERE = Path(__file__).parent.parent
JUDGE = """
def late(predicted, reference, domain, power=1.0):
    error = (predicted - reference).abs().flatten(2).mean(dim=2)
    return error[:, -1] ** power


class Picky:
    def __init__(self, file):
        raise ValueError("no such file")


def mixed(predicted, reference, domain):
    return (predicted - reference).abs().mean().expand(len(predicted))


def scalar(predicted, reference, domain):
    return (predicted - reference).square().mean()


def deaf(predicted, reference, domain):
    return ((predicted - reference).detach() ** 2).mean(dim=(1, 2, 3, 4))
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch, tmp_path):
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.chdir(tmp_path)
    Path("judge.py").write_text(JUDGE)


def settings(loss, options=None, labels=("SRC", "NON", "ZO-weights", "ZO-interface")):
    return load_config(
        tables={
            "data": {"fine": [16, 16], "coarse": [8, 8], "steps": 8, "train": 3, "test": 2},
            "corrector": {"sizes": {"width": 2, "depth": 2}},
            "non": {"length": "3 iterations"},
            "training": {
                "length": "4 iterations",
                "unroll": 3,
                "loss": loss,
                "loss_options": options or {},
            },
            "interface": {"way": "dense"},
            "run": {"labels": list(labels)},
        }
    )


def test_a_run_is_trained_and_judged_by_a_function(tmp_path):
    metrics = run_correction(settings("judge.py:late", {"power": 2.0}), tmp_path / "run")
    source = metrics["loss"]["SRC"]
    assert metrics["loss"]["ZO-interface"] != source
    best = min(("NON", "ZO-weights", "ZO-interface"), key=lambda k: metrics["mae"][k]["mean"])
    said = f"is judge.py:late; {best} has {metrics['loss'][best]:.4g} and the uncorrected solver "
    assert f"{said}has {source:.4g}." in write_report([tmp_path / "run"]).read_text()
    assert "loss.digest" in {path.name for path in (tmp_path / "run").iterdir()}
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["loss"]["SRC"] == source
    again = run_correction(settings("judge.py:late"), tmp_path / "first")  # power 1
    assert again["loss"]["SRC"] > source > 0
    Path("judge.py").write_text(JUDGE + "\n# edited\n")
    with pytest.raises(InputError, match="the loss"):
        run_correction(settings("judge.py:late", {"power": 2.0}), tmp_path / "run", resume=True)


def measured_by(*metrics):
    config = settings("squares", labels=("SRC", "NON"))
    return replace(config, run=replace(config.run, metrics=metrics))


def test_own_metrics_are_columns_of_the_second_table_and_may_be_added_later(tmp_path):
    plain = run_correction(measured_by(), tmp_path / "run")
    assert "own" not in plain
    names = "judge.py:late", "spectrum"
    metrics = run_correction(measured_by(*names), tmp_path / "run", resume=True)
    assert metrics["mae"] == plain["mae"]
    late = {label: found["late"] for label, found in metrics["own"].items()}
    states = {
        label: load_rollout(path).states
        for label, path in {
            "reference": tmp_path / "run" / "reference.nc",
            "SRC": tmp_path / "run" / "SRC" / "seed-0" / "rollout.nc",
            "NON": tmp_path / "run" / "NON" / "seed-0" / "rollout.nc",
        }.items()
    }
    for label in ("SRC", "NON"):
        expected = (states[label] - states["reference"])[:, -1].abs().mean()
        assert late[label] == pytest.approx(float(expected), rel=1e-5)
    second = table_of(metrics).also
    assert second.columns[1:3] == ["late", "spectrum"]
    assert second.rows[0][1] == f"{late['SRC']:.3g}"


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (["judge.py:none"], "judge.py"),
        (["spectre"], "run.metrics"),
        (["judge.py:late", "judge.py:late"], "'late' twice"),
        (["judge.py:Picky"], "run.metrics"),
        (["judge.py:scalar"], "a floating-point tensor of one number a window"),
        (["judge.py:mixed"], "run.metrics mixed: .*each window judged by itself"),
    ],
)
@pytest.mark.parametrize("runs", [1, 2])
def test_a_metric_that_will_not_do_is_refused_before_anything_is_made(
    metrics, words, runs, tmp_path
):
    few = replace(settings("squares").data, test=runs)
    with pytest.raises(InputError, match=words):
        run_correction(replace(measured_by(*metrics), data=few), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_metric_that_cannot_judge_a_diverged_run_says_nothing(tmp_path):
    def strict(predicted, reference, domain):
        assert bool(predicted.isfinite().all())
        return predicted.flatten(1).mean(dim=1)

    grid, whole = Grid((4,), (1.0,), 0.1, ("u",)), torch.ones(1, 3, 1, 4)
    test, solver = Trajectories(grid, whole), SimpleNamespace(grid=grid, step=lambda u, f: u / 0)
    (said,) = evaluate(solver, test, None, judges={"strict": strict}).judged.values()
    assert bool(said.isnan().all())


@pytest.mark.parametrize("loss", ["relative", "last", "moments", "spectrum"])
def test_every_ready_made_loss_trains(loss, tmp_path):
    metrics = run_correction(settings(loss, labels=("SRC", "ZO-interface")), tmp_path / "run")
    assert metrics["loss"]["ZO-interface"] != metrics["loss"]["SRC"] > 0


def test_a_loss_without_a_gradient_trains_by_its_values_alone(tmp_path):
    with pytest.raises(InputError, match=r"without a gradient.*which ZO-interface would need"):
        run_correction(settings("judge.py:deaf"), tmp_path / "run")
    labels = ("SRC", "NON", "ZO-weights")
    metrics = run_correction(settings("judge.py:deaf", labels=labels), tmp_path / "other")
    assert metrics["loss"]["ZO-weights"] != metrics["loss"]["NON"]
    # The twin cannot tell how good that gradient is; the loss itself does.
    looks = (tmp_path / "other" / "ZO-weights" / "seed-0" / "gradient.csv").read_text()
    assert looks.splitlines()[1].endswith("differences")


@pytest.mark.parametrize(
    ("loss", "options", "what"),
    [
        ("squares", {"power": 2.0}, "training.loss_options: got power"),
        ("judge.py:late", {"strength": 2.0}, "training.loss_options: .*strength"),
        ("judge.py:Picky", {"file": "none"}, "training.loss_options: .*no such file"),
        ("sensors", {"positions": [7.5, 7.5]}, "sensors positions"),
        ("judge.py:none", {}, "none"),
        ("sensors", {}, "training.loss_options"),
        ("sensors", {"positions": [[99.0, 0.1]]}, "99 along y"),
        ("last ", {}, "did you mean 'last'"),
    ],
)
def test_what_names_no_loss_is_refused(loss, options, what, tmp_path):
    with pytest.raises(InputError, match=what):
        run_correction(settings(loss, options), tmp_path / "run")
