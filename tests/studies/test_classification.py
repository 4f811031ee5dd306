import csv
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from zopde import InputError, load_classification, load_classifier, load_images, run_classification
from zopde.data import ImageData, Images
from zopde.progress import Silent
from zopde.studies import classifiers as networks
from zopde.studies.classify import LABELS as METHODS
from zopde.studies.classify import PRESETS
from zopde.studies.classify import train as training
from zopde.studies.classify.open import open_classification
from zopde.studies.classify.settings import ClassificationConfig
from zopde.studies.run import price_study, study_named

# Seconds: every method, six updates of a network of 98 weights, one seed.
TINY = [
    "network.sizes={depth=1,width=4}",
    "training.batch=480",
    'training.length="2 epochs"',
    'training.warmup="1 iteration"',
    "zo.sparsity=0.5",
    "zo.score_directions=8",
    "zo.score_images=3",
    'zo.resample="2 iterations"',
    "zo.directions=12",
    f"run.methods={json.dumps(list(METHODS))}",
    "run.checkpoint_seconds=0.001",
    "run.seeds=[0]",
]


def tiny(*changes):
    # A table that is given twice is merged key by key.
    return load_classification("quick", None, [*TINY, *changes])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, run_classification(tiny("run.seeds=[0,1]"), folder)


def test_metrics_say_everything(finished):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["methods"] == list(METHODS)
    weights = metrics["parameters"]
    assert weights == 4 * 9 + 4 + 8 + 4 * 10 + 10
    for name in METHODS:
        confusion = torch.tensor(metrics["confusion"][name])
        assert int(confusion.sum()) == 2 * metrics["test_images"]
        right = 100 * int(confusion.diagonal().sum()) / int(confusion.sum())
        assert metrics["accuracy"][name]["mean"] == pytest.approx(right)
    assert metrics["points_from_fo"]["FO"] == 0


def test_costs_are_counted_exact(finished):
    """Six updates; by queries: the probes, the base, and the batch for the statistics."""
    _, metrics = finished
    active = (4 * 9 + 40) // 2 + 4 + 8 + 10
    assert metrics["queries"] == {
        "FO": 6,
        "FO-sparse-gradient": 6 + 1,
        "FO-sparse-weights": 6 + 1,
        "CGE": 6 * (metrics["parameters"] + 2),
        "RGE": 6 * (12 + 2),
        "DeepZero": 6 * (active + 2) + 2 * (8 + 1),
    }


def test_the_folder_holds_models_curves_and_pictures(finished):
    folder, _ = finished
    for picture in ("learning_curves", "confusion", "layer_ratios"):
        assert (folder / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    for name in METHODS:
        with (folder / name / "seed-0" / "learning.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["iteration"] for row in rows] == ["3", "6"]
    sparse = load_classifier(folder / "FO-sparse-weights" / "seed-0" / "model.safetensors")
    assert int((sparse.body.levels[0][0].weight == 0).sum() + (sparse.body.head.weight == 0).sum())


def test_a_model_file_answers_for_pixels_agrees(finished):
    folder, metrics = finished
    test = load_images().test
    right = 0
    for seed in (0, 1):
        model = load_classifier(folder / "CGE" / f"seed-{seed}" / "model.safetensors")
        right += int((model(test.pixels).argmax(dim=1) == test.labels).sum())
    assert 50 * right / len(test) == pytest.approx(metrics["accuracy"]["CGE"]["mean"])
    with pytest.raises(InputError, match="model file"):
        load_classifier(folder / "metrics.json")


class KilledError(Exception):
    pass


@pytest.mark.parametrize("method", ["FO-sparse-weights", "RGE", "DeepZero"])
def test_a_killed_run_resumes_exact(tmp_path, finished, monkeypatch, method):
    folder, _ = finished
    config = tiny("run.seeds=[0,1]", f'run.methods=["{method}"]')
    whole, count = training.evaluate, 0

    def dies(problem, network):
        nonlocal count
        count += 1
        if count == 1:
            return whole(problem, network)
        raise KilledError

    monkeypatch.setattr(training, "evaluate", dies)
    with pytest.raises(KilledError):
        run_classification(config, tmp_path / "run")
    monkeypatch.setattr(training, "evaluate", whole)
    run_classification(config, tmp_path / "run", resume=True)
    for seed in ("seed-0", "seed-1"):
        again, before = (root / method / seed for root in (tmp_path / "run", folder))
        assert (again / "model.safetensors").read_bytes() == (
            before / "model.safetensors"
        ).read_bytes()
        with (again / "learning.csv").open() as file:
            assert [row["iteration"] for row in csv.DictReader(file)] == ["3", "6"]


def test_workers_give_the_same_bits(tmp_path, finished):
    _folder, _ = finished
    changes = ('run.methods=["DeepZero"]', "run.seeds=[0]")
    for count in (1, 2):
        run_classification(tiny(*changes, f"run.workers={count}"), tmp_path / str(count))
    one, two = (
        (tmp_path / count / "DeepZero" / "seed-0" / "model.safetensors").read_bytes()
        for count in ("1", "2")
    )
    assert one == two


class NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise AssertionError("somebody went back")


class Forward(nn.Module):
    """A classifier that cannot be back-propagated."""

    def __init__(self, channels, classes):
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, classes)

    def forward(self, x):
        return self.head(NoWayBack.apply(self.norm(self.conv(x))).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize("method", ["CGE", "RGE", "DeepZero"])
def test_no_graph_is_built_by_queries(tmp_path, monkeypatch, method):
    """Saving a tensor for a backward pass is an error here, as is a backward pass."""
    monkeypatch.setitem(networks._KINDS, "mine", Forward)

    def refuse(tensor):
        raise AssertionError("a graph is being built")

    config = tiny("network.sizes={}", f'run.methods=["{method}"]')
    tree = ClassificationConfig(
        config.data, type(config.network)("mine", {}), config.training, config.zo, config.run
    )
    with torch.autograd.graph.saved_tensors_hooks(refuse, lambda x: x):
        metrics = run_classification(tree, tmp_path / "run")
    assert metrics["stopped_early"][method] == ""
    monkeypatch.setitem(METHODS, method, METHODS["FO"])
    with (
        torch.autograd.graph.saved_tensors_hooks(refuse, lambda x: x),
        pytest.raises(AssertionError, match="graph"),
    ):
        run_classification(tree, tmp_path / "other")


def test_networks_and_images_of_a_users_own(tmp_path, gen):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, channels, classes, hidden):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(channels * 16, hidden), nn.ReLU(),\n"
        "                         nn.Linear(hidden, classes))\n"
    )
    pixels, labels = torch.rand(40, 2, 4, 4, generator=gen), torch.arange(40) % 3
    part = Images.from_dataset(torch.utils.data.TensorDataset(pixels, labels))
    config = tiny(f'network.kind="{tmp_path / "mine.py"}:Net"', 'run.methods=["CGE"]')
    sized = ClassificationConfig(
        config.data,
        type(config.network)(config.network.kind, {"hidden": 5}),
        config.training,
        config.zo,
        config.run,
    )
    data = ImageData("mine", part, part, ("a", "b", "c"))
    metrics = run_classification(sized, tmp_path / "run", images=data)
    assert metrics["parameters"] == 32 * 5 + 5 + 5 * 3 + 3
    assert load_classifier(tmp_path / "run" / "CGE" / "seed-0" / "model.safetensors").classes == (
        "a",
        "b",
        "c",
    )


def test_other_data_or_settings_than_before_raises(tmp_path):
    config = tiny('run.methods=["FO"]')
    run_classification(config, tmp_path / "run")
    with pytest.raises(InputError, match="--resume"):
        run_classification(config, tmp_path / "run")
    with pytest.raises(InputError, match=r"training\.lr"):
        run_classification(
            tiny('run.methods=["FO"]', "training.lr=0.3"), tmp_path / "run", resume=True
        )
    data = load_images()
    other = ImageData("other", data.test, data.train, data.classes)
    with pytest.raises(InputError, match="other numbers"):
        run_classification(config, tmp_path / "run", resume=True, images=other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("zo.sparsity=1.0", "sparsity"),
        ('run.methods=["FOO"]', "did you mean 'FO'"),
        ('training.length="0 epochs"', "at least 1"),
        ("run.seeds=[]", "seeds"),
        ("zo.chunk=0", "chunk"),
        ("zo.mask=1", "setting"),
        ("data.pad=-1", "data.pad"),
    ],
)
def test_settings_that_will_not_do_raises(change, said):
    with pytest.raises(InputError, match=said):
        tiny(change)


@pytest.mark.parametrize(
    "change", ["network.sizes={dept=1}", "network.sizes={depth=9}", 'network.kind="torch.nn:ReLU"']
)
def test_a_network_that_will_not_do_raises(tmp_path, change):
    with pytest.raises(InputError, match=r"network|images"):
        run_classification(tiny(change, 'run.methods=["FO"]'), tmp_path / "run")
    assert not (tmp_path / "run" / "config.toml").exists()


def test_every_preset_loads():
    for preset in PRESETS:
        config = load_classification(preset)
        assert (config.data.path == "") == (preset == "quick")


def test_a_dry_run_counts_what_a_run_asks_exact(finished):
    _, metrics = finished
    opened = open_classification(tiny(), Path(), Silent())
    plan = price_study(study_named("classify"), opened, Silent())
    assert {row.label: row.queries for row in plan} == metrics["queries"]
    assert {row.iterations for row in plan} == {6}
    assert all(row.seconds > 0 for row in plan)
