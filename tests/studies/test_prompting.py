"""Prompts of a frozen model: what a run leaves, how it is counted, resumed, priced and shown."""

import json

import pytest
import torch
from typer.testing import CliRunner

from zopde import InputError, write_report
from zopde.cli.app import app
from zopde.data import Look, VideoData, Videos, digit_videos
from zopde.nets import Projected
from zopde.progress import Silent
from zopde.studies.prompt import LABELS, load_prompting, run_prompting
from zopde.studies.prompt.labels import white_box
from zopde.studies.prompt.open import open_prompting
from zopde.studies.prompt.show import metrics_of
from zopde.studies.prompt.train import Trained, gradient_of, trained_part
from zopde.studies.run import price_study, study_named
from zopde.training import Fitted, load_checkpoint

TINY = {
    "data": {"train": 12, "test": 6},
    "model": {"channels": 2, "width": 4, "heads": 2, "hidden": 4, "depth": 1, "batch": 4}
    | {"length": "3 iterations", "warmup": "0 iterations"},
    "prompts": {"border": 1, "tokens": 2},
    "training": {"queries": 50, "iterations": 3, "batch": 4},
    "zo": {"entries": 8, "directions": 5, "directions_projected": 2, "dimension": 6, "rank": 2},
    "run": {"seeds": [0], "methods": list(LABELS), "checkpoint_seconds": 1e-3},
}


def tiny(**tables):
    both = {name: {**TINY.get(name, {}), **table} for name, table in tables.items()}
    return load_prompting("quick", None, (), {**TINY, **both})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompting") / "run"
    return folder, run_prompting(tiny(), folder, progress=Silent())


def test_every_label_has_its_figures_and_the_prompts_it_found(finished):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["methods"] == list(LABELS)
    for name, label in LABELS.items():
        assert all(0 <= at["mean"] <= 100 for at in metrics["recall"][name])
        kept = load_checkpoint(folder / name / "seed-0" / "prompts.pt") or {}
        wanted = {"visual": label.visual, "text": label.text}
        assert kept.keys() == {kind for kind, has in wanted.items() if has}
        if kept.get("text") is not None:
            assert kept["text"].shape == (2, 4)
    assert (folder / "spans.png").exists()


def test_answers_are_counted_and_stay_in_the_budget_exact(finished):
    _, metrics = finished
    # 50 queries pay for 3 updates of 16, for 5 of 10, for 12 of 4.
    by_kind = {"none": (0, 0), "backprop": (3, 3), "cge": (3, 48), "rge": (5, 50)}
    by_kind["projected"] = (12, 48)
    for name, label in LABELS.items():
        updates, queries = by_kind[label.gradient]
        assert (metrics["iterations"][name], metrics["queries"][name]) == (updates, queries)
        assert metrics["answers"][name] == 4 * queries


@pytest.mark.parametrize("name", ["CGE", "RGE", "ZIP"])
def test_the_ledger_counts_what_the_model_was_asked_exact(name, tmp_path):
    opened, label, asked = open_prompting(tiny(), tmp_path, Silent()), LABELS[name], []
    network = trained_part(opened, label, opened.prompted(label, 0), 0)
    loss = opened.other["train"].at(4, 0, 0)

    def objective(network, num_probes):
        asked.append(num_probes)
        return loss(network, num_probes)

    measured = gradient_of(opened, label, network, 0)(network, objective, 0)
    assert sum(asked) == measured.queries == opened.per_update[name]


@pytest.mark.parametrize("name", ["FO", "CGE", "RGE", "ZIP"])
def test_a_gradient_points_along_the_white_boxs(name, tmp_path):
    """With every entry, or with many directions; of ZIP's numbers where theirs is compared."""
    zo = {"entries": 10**6, "directions": 200, "directions_projected": 60, "dimension": 3}
    training = {"queries": 10**7, "batch": 12}
    opened = open_prompting(tiny(zo=zo, training=training), tmp_path, Silent())
    label = LABELS[name]
    network = trained_part(opened, label, opened.prompted(label, 0), 0)
    objective = opened.other["train"].at(12, 0, 0)
    weights = [p for p in network.parameters() if p.requires_grad]
    exact = torch.autograd.grad(objective(network, 1)[0], weights)
    gradient_of(opened, label, network, 0)(network, objective, 0)
    both = [torch.cat([g.flatten() for g in of]) for of in (exact, [w.grad for w in weights])]
    least = {"FO": 0.999, "CGE": 0.99, "RGE": 0.3, "ZIP": 0.9}[name]
    assert torch.cosine_similarity(*both, dim=0) > least
    assert isinstance(network, Projected) == (name == "ZIP")


def test_the_model_stays_as_it_was_trained(finished):
    """All labels start from the same one, and BASE is that one."""
    folder, _ = finished
    model = load_checkpoint(folder / "model" / "seed-0" / "checkpoint.pt")["network"]
    trained = load_checkpoint(folder / "FO" / "seed-0" / "checkpoint.pt")["network"]
    for name, value in model.items():
        assert torch.equal(value, trained[f"model.{name}"]), name


def test_a_run_that_is_stopped_goes_on_to_the_same_figures_exact(finished, tmp_path):
    _, whole = finished

    class StoppedError(Exception):
        pass

    def stop(event):
        if event.label == "RGE" and event.kind == "iteration" and event.figures["iteration"] == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_prompting(tiny(), tmp_path / "run", progress=Silent(), callbacks=[stop])
    again = run_prompting(tiny(), tmp_path / "run", resume=True, progress=Silent())
    for figure in ("recall", "loss", "queries", "gain", "base_look"):
        assert again[figure] == whole[figure]


def test_a_resumption_with_other_videos_is_refused(tmp_path):
    few = tiny(run={"methods": ["BASE"]})
    other = digit_videos(Look(noise=0.3), 12, 6, 5, 3)
    run_prompting(few, tmp_path / "run", progress=Silent())
    with pytest.raises(InputError, match=r"^videos: got other numbers"):
        run_prompting(few, tmp_path / "run", resume=True, progress=Silent(), other=other)


def test_the_gain_is_a_share_of_the_white_boxs_exact(tmp_path):
    opened = open_prompting(
        tiny(run={"methods": ["BASE", "FO", "RGE", "RGE-text"]}), tmp_path, Silent()
    )
    cost, spans = Fitted(0, 0, 0, 0.0), torch.zeros(6, 2)
    reached = {"BASE": 40.0, "FO": 60.0, "RGE": 58.0, "RGE-text": 50.0}
    results = {
        name: [Trained(cost, spans, [90.0, at, 0.0], 1.0, [90.0, 80.0, 70.0])]
        for name, at in reached.items()
    }
    gain = metrics_of(opened, results)["gain"]
    assert gain == {"BASE": None, "FO": None, "RGE": pytest.approx(90.0), "RGE-text": None}
    results["BASE"] = [Trained(cost, spans, [90.0, 60.0, 0.0], 1.0, [90.0, 80.0, 70.0])]
    assert metrics_of(opened, results)["gain"]["RGE"] is None  # nothing is gained to have a share


def test_every_row_by_queries_has_its_white_box():
    for name, label in LABELS.items():
        if label.zeroth_order:
            white = LABELS[white_box(name)]
            assert (white.gradient, white.visual, white.text) == (
                *("backprop",),
                *(label.visual, label.text),
            )


def test_a_dry_run_prices_every_label_and_writes_nothing(tmp_path):
    opened = open_prompting(tiny(), tmp_path, Silent())
    prices = price_study(study_named("prompt"), opened, Silent())
    assert [price.label for price in prices] == list(LABELS)
    assert all(price.queries <= 50 and price.seconds > 0 for price in prices)
    assert not list(tmp_path.iterdir())


def test_the_command_and_the_report_show_a_run(finished, tmp_path, monkeypatch):
    folder, metrics = finished
    shown = study_named("prompt").table(metrics)
    assert [row[0] for row in shown.rows] == list(LABELS)
    assert all(len(row) == len(shown.columns) for row in shown.rows)
    page = write_report([folder], tmp_path / "page.html").read_text()
    assert "ZIP-text" in page
    done = CliRunner().invoke(app, ["prompt", "--set", "data.other=nowhere.py:mine", "--dry-run"])
    assert isinstance(done.exception, InputError)


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"training": {"lr": {}}}, "training.lr.FO-visual"),
        ({"training": {"queries": 3}}, "training.queries"),
        ({"run": {"methods": ["none"]}}, "run.methods"),
        ({"data": {"most": 5}}, "duration"),
        ({"data": {"classes": 11}}, "classes"),
        ({"prompts": {"border": 10}}, "border"),
    ],
)
def test_settings_that_will_not_do_are_refused_before_anything_is_trained(tables, named, tmp_path):
    with pytest.raises(InputError, match=f"^{named}"):
        run_prompting(tiny(**tables), tmp_path / "run", progress=Silent())
    assert not (tmp_path / "run" / "model").exists()


def test_videos_of_another_shape_than_the_base_ones_are_refused(tmp_path):
    other = digit_videos(Look(), 4, 4, 0)
    cut = [
        (f[:3], s, p)
        for f, s, p in zip(
            other.train.frames, other.train.sentences, other.train.spans, strict=True
        )
    ]

    data = VideoData("cut", Videos.of(cut), Videos.of(cut))
    with pytest.raises(InputError, match=r"^other videos: got shape"):
        open_prompting(tiny(), tmp_path, Silent(), other=data)
