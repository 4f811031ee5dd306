import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from zopde import InputError, SolverError, load_defence, load_defended, run_defence
from zopde.cli.app import app
from zopde.data import ImageData, Images
from zopde.progress import Silent
from zopde.studies.certificates import FILE, read_rows
from zopde.studies.defend import LABELS as METHODS
from zopde.studies.defend import PRESETS
from zopde.studies.defend.budget import Budget
from zopde.studies.defend.open import open_defence
from zopde.studies.run import price_study, study_named

LR = {name: 1e-3 for name, method in METHODS.items() if method.trained}
TINY = {
    "classifier": {"changes": ['training.length="2 epochs"', "network.sizes={depth=1,width=4}"]},
    "defence": {"depth": 3, "width": 4, "latent": 3},
    "pretraining": {"denoiser": "3 iterations", "autoencoder": "3 iterations", "batch": 16},
    "training": {
        "queries": 2_000,
        "iterations": 4,
        "batch": 6,
        "watch": 3,
        "watch_images": 10,
        "lr": LR,
    },
    "zo": {"directions": 2, "weights": 10, "score_directions": 2, "resample": "2 iterations"},
    "surrogate": {"first": 9, "updates": 2, "below": 0.0},
    "certify": {"images": 3, "n0": 10, "n": 20},
    "run": {"seeds": [0], "checkpoint_seconds": 1e-3},
}


def few():
    """Twenty images to train on: an epoch is four batches, the last of two."""
    gen = torch.Generator().manual_seed(0)
    pixels = torch.randint(17, (26, 1, 8, 8), generator=gen, dtype=torch.uint8)
    labels = torch.arange(26) % 3
    parts = Images(pixels[:20], labels[:20]), Images(pixels[20:], labels[20:])
    return ImageData("few", *parts, ("a", "b", "c"))


def tiny(**tables):
    both = {name: {**TINY.get(name, {}), **table} for name, table in tables.items()}
    return load_defence("quick", None, (), {**TINY, **both})


def by_brightness(images):
    """Three scores, in NumPy: nothing to differentiate."""
    level = images.detach().numpy().mean(axis=(1, 2, 3))
    return torch.tensor([[-abs(v - c) * 40 for c in (0.4, 0.5, 0.6)] for v in level.tolist()])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, run_defence(tiny(), folder, images=few())


def test_metrics_say_everything(finished):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["methods"] == list(METHODS)
    for name in METHODS:
        shares = [at["mean"] for at in metrics["certified"][name]]
        assert shares == sorted(shares, reverse=True)
        rows = read_rows(folder / name / "seed-0" / FILE)
        right = [row for row in rows if row.label == row.prediction]
        assert len(rows) == 3
        assert metrics["certified"][name][0]["seeds"] == [100 * len(right) / 3]
    for picture in ("certified_accuracy.png", "images.png"):
        assert (folder / picture).stat().st_size > 5000


def test_queries_are_as_many_as_foretold_exact(finished):
    """Labels, losses, differences, looks and scores, counted by hand and by the ledger."""
    _, metrics = finished
    budget = open_defence(tiny(), Path(), Silent(), few()).budget
    by_hand = {"FO-DS": 2, "FO-AE-DS": 2, "ZO-DS": 2 + 4, "ZO-AE-DS-RGE": 2 + 4}
    by_hand |= {"ZO-AE-DS-CGE": 2 + 6, "DeepZero": 1 + 11}
    for name, each in by_hand.items():
        length = budget.iterations_of(name)
        assert metrics["iterations"][name] == length
        seen = 20 * (length // 4) + 6 * (length % 4)
        looks = math.ceil(length / math.ceil(length / 3)) + 1
        scoring = 6 * (1 + 2 * 3) if name == "DeepZero" else 0
        assert metrics["queries"][name] == scoring + 10 + 10 * looks + each * seen
        assert budget.total(METHODS[name], length) == metrics["queries"][name]
        if METHODS[name].zeroth_order:
            assert metrics["queries"][name] <= 2_000
            assert budget.total(METHODS[name], length + 4) > 2_000 - 30


def test_queries_of_a_surrogate_are_as_many_as_foretold_exact(finished):
    """Looks as above; then the first images, and of every second batch a label, scores, a check."""
    _, metrics = finished
    looks = 10 + 10 * 3
    batches = 2 * 6 * (1 + 1)
    check = 2 * 6  # of the first batch, by central differences
    assert metrics["queries"]["SUR-DS"] == looks + 9 + batches + check
    assert metrics["queries"]["SUR-AE-DS"] == metrics["queries"]["SUR-DS"]
    assert metrics["queries"]["KD-AE-DS"] == looks + 20
    budget = open_defence(tiny(), Path(), Silent(), few()).budget
    for iterations in range(1, 90):  # the last batch of an epoch is smaller
        seen = [min(6, 20 - 6 * (i % 4)) for i in range(0, iterations, 2)]
        looks = -(-iterations // -(-iterations // 3)) + 1
        total = 10 + 10 * looks + 9 + 2 * sum(seen) + 2 * sum(seen[::10])
        assert budget.total(METHODS["SUR-DS"], iterations) == total


def test_a_model_gives_the_same_answers_as_its_run(finished):
    folder, _ = finished
    whole = load_defended(folder / "DeepZero" / "seed-0" / "model.safetensors")
    assert (whole.sigma, whole.classes) == (0.35, 3)
    x = few().test.pixels / 16
    assert torch.equal(whole(x), whole.classifier(whole.defence(x)))
    given = load_defended(folder / "FO-AE-DS" / "seed-0" / "model.safetensors", by_brightness)
    assert given(x).shape == (6, 3)


def test_deepzero_leaves_norms_and_biases_as_they_are(finished):
    folder, _ = finished
    start, end = (
        load_defended(folder / name / "seed-0" / "model.safetensors").defence.state_dict()
        for name in ("MSE", "DeepZero")
    )
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert all(start[name].dim() == 4 for name in moved)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "most"), [("ZO-AE-DS-CGE", 900), ("ZO-DS", 900), ("DeepZero", 900), ("SUR-AE-DS", 72)]
)
def test_a_killed_run_resumes(finished, name, most, tmp_path):
    """Killed within training, then within certification: the same bits, the same ledger."""
    config = tiny(run={"methods": [name]})

    def run(stop, resume):
        class Stopping(Silent):
            def stage(self, title, total):
                if title.startswith(stop):
                    raise KilledError
                return super().stage(title, total)

        asked = 0

        def classifier(images):
            nonlocal asked
            asked += len(images)
            if stop == "training" and asked > most:
                raise KilledError
            return by_brightness(images)

        return run_defence(
            config, tmp_path / "a", resume, False, Stopping(), few(), classifier=classifier
        )

    with pytest.raises(SolverError, match="KilledError"):
        run("training", False)
    with pytest.raises(KilledError):
        run("certify", True)
    found = run("nothing", True)
    whole = run_defence(config, tmp_path / "b", images=few(), classifier=by_brightness)
    for key in ("certified", "queries", "iterations", "best_iteration"):
        assert found[key] == whole[key]
    parts = (tmp_path / part / name / "seed-0" / "model.safetensors" for part in "ab")
    first, second = (part.read_bytes() for part in parts)
    assert first == second


def test_a_spent_budget_keeps_the_best_model(monkeypatch, tmp_path):
    """A budget that ends in mid-iteration, as when the classifier is asked more than planned."""
    monkeypatch.setattr(Budget, "iterations_of", lambda budget, name: 100)
    config = tiny(run={"methods": ["ZO-AE-DS-CGE"]}, training={"queries": 700})
    found = run_defence(config, tmp_path, images=few(), classifier=by_brightness)
    assert found["queries"]["ZO-AE-DS-CGE"] <= 700
    assert "budget of 700 queries" in found["stopped_early"]["ZO-AE-DS-CGE"]
    folder = tmp_path / "ZO-AE-DS-CGE" / "seed-0"
    best = torch.load(folder / "best.pt", weights_only=True)
    kept = load_defended(folder / "model.safetensors", by_brightness).defence.front.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in best["network"].items())
    assert found["best_iteration"]["ZO-AE-DS-CGE"] == [best["iteration"]]


def test_a_white_box_method_refuses_a_black_box_raises(tmp_path):
    with pytest.raises(InputError, match="leave FO-DS and FO-AE-DS out"):
        run_defence(tiny(), tmp_path, images=few(), classifier=by_brightness)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"training": {"queries": 50}}, "for one update of"),
        ({"run": {"methods": ["deepzero"]}}, "did you mean 'DeepZero'"),
        ({"training": {"lr": {}}}, "training.lr.FO-DS"),
        ({"certify": {"alpha": 1.0}}, "alpha"),
        ({"classifier": {"answers": "labels"}}, "a label alone has no slope"),
    ],
)
def test_settings_that_will_not_do_raises(tables, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run_defence(tiny(**tables), tmp_path, images=few())


def test_every_preset_builds():
    for preset in PRESETS:
        assert load_defence(preset).run.methods


def test_a_dry_run_foretells_queries_and_writes_nothing(finished, monkeypatch, tmp_path):
    _, metrics = finished
    monkeypatch.chdir(tmp_path)
    opened = open_defence(tiny(classifier={"price": 2.0}), Path(), Silent(), few())
    plan = {row.label: row for row in price_study(study_named("defend"), opened, Silent())}
    for name in METHODS:
        assert plan[name].queries == metrics["queries"][name]
        assert plan[name].money == 2 * plan[name].queries
        assert plan[name].certification == metrics["queries_of_certification"]
    assert not list(tmp_path.iterdir())


def test_the_command_says_costs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = ['run.methods=["MSE"]', 'pretraining.denoiser="1 iteration"', "certify.images=1"]
    arguments = [part for change in text for part in ("--set", change)]
    done = CliRunner().invoke(app, ["defend", "--dry-run", *arguments])
    assert done.exit_code == 0
    assert "1,100" in done.output
