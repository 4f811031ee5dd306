"""`zopde classify` with `zo.estimator = "units"`."""

import csv

import pytest

from zopde import InputError, load_classification, load_classifier, run_classification
from zopde.progress import Silent
from zopde.studies.classify.open import open_classification
from zopde.studies.run import price_study, study_named

# Seconds: three updates of a network of 98 weights, whose head has 10 units and 50 weights.
TINY = [
    "network.sizes={depth=1,width=4,groups=2}",
    "training.batch=480",
    'training.length="3 iterations"',
    'training.warmup="1 iteration"',
    "zo.sparsity=0.5",
    'zo.score="magnitude"',
    'run.methods=["CGE","DeepZero"]',
    "run.seeds=[0]",
]
WEIGHTS, NORM, HEAD, CLASSES = 4 * 9 + 4, 8, 50, 10


def tiny(*changes):
    return load_classification("quick", None, [*TINY, *changes])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: (folder / name, run_classification(tiny(f'zo.estimator="{name}"'), folder / name))
        for name in ("weights", "units")
    }


def test_fewer_queries_for_the_same_training_agrees(runs):
    (_, weights), (folder, units) = runs["weights"], runs["units"]
    assert weights["queries"]["CGE"] == 3 * (WEIGHTS + NORM + HEAD + 1)
    assert units["queries"]["CGE"] == 3 * (WEIGHTS + NORM + CLASSES + 1)
    assert units["queries"]["DeepZero"] < weights["queries"]["DeepZero"]
    for name in ("CGE", "DeepZero"):
        one, two = units["loss"][name], weights["loss"][name]
        assert one == pytest.approx(two, rel=1e-2)
        with (folder / name / "seed-0" / "learning.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert int(rows[-1]["queries"]) == units["queries"][name]
    model = load_classifier(folder / "CGE" / "seed-0" / "model.safetensors")
    assert model.body.levels[0][1].num_groups == 2


def test_a_run_repeats_itself_exact(runs, tmp_path):
    folder, metrics = runs["units"]
    again = run_classification(tiny('zo.estimator="units"'), tmp_path / "again")
    assert again["queries"] == metrics["queries"]
    for name in ("CGE", "DeepZero"):
        model = f"{name}/seed-0/model.safetensors"
        assert (tmp_path / "again" / model).read_bytes() == (folder / model).read_bytes()


@pytest.mark.parametrize("scheme", ["forward", "central"])
@pytest.mark.parametrize(
    "change", ['zo.estimator="units"', 'zo.estimator="weights"', "network.sizes={depth=1,width=4}"]
)
def test_the_price_counts_what_a_run_asks_exact(tmp_path, scheme, change):
    scheme, methods = f'zo.scheme="{scheme}"', 'run.methods=["CGE","RGE"]'
    config = tiny(scheme, methods, "zo.directions=6", change)
    metrics = run_classification(config, tmp_path / "run")
    opened = open_classification(config, tmp_path, Silent())
    prices = price_study(study_named("classify"), opened, Silent())
    assert {price.label: price.queries for price in prices} == metrics["queries"]


def test_what_mixes_samples_is_refused_before_anything_raises(tmp_path):
    config = tiny('zo.estimator="units"', "network.sizes={depth=1,width=4}")
    with pytest.raises(InputError, match=r"BatchNorm in train mode.*network.sizes.groups=2"):
        run_classification(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_workers_are_refused_raises():
    with pytest.raises(InputError, match=r"zo.estimator.*run.workers=0"):
        tiny('zo.estimator="units"', "run.workers=2")


def test_groups_that_do_not_divide_raises(tmp_path):
    with pytest.raises(InputError, match="groups"):
        run_classification(tiny("network.sizes={width=4,groups=3}"), tmp_path / "run")
