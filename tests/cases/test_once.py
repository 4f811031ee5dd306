"""What is done once: a kept solver is sent once, and weights that are thrown away cost nobody."""

from functools import partial

import pytest
import torch

from zopde import (
    ConvCorrector,
    ExecutorOracle,
    Normalised,
    UnrolledObjective,
    WorkerPool,
    cge,
    load_classifier,
    load_corrector,
    load_defended,
    load_solver,
)
from zopde.blackbox import CountedSolver
from zopde.nets import SmallCNN
from zopde.oracle import WeightOracles
from zopde.studies.classifiers import StandardisedClassifier, save_classifier
from zopde.studies.correct import save_corrector
from zopde.studies.defended import Defence, save_defended


@pytest.fixture
def two():
    with WorkerPool(2) as pool:
        yield pool


def test_a_training_keeps_one_folder_and_the_numbers(two, corrector, window, toy_spec, tmp_path):
    """Iteration by iteration: other weights, another objective, the same bits and counts."""
    counter = CountedSolver(load_solver(toy_spec))
    make = partial(ExecutorOracle, executor=two, kept=(counter,), folder=tmp_path)
    there, here, few = WeightOracles(8, make=make), WeightOracles(8), torch.arange(0, 60, 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for scale in (1.0, 2.0, 3.0):
        objective = UnrolledObjective(counter, window, torch.full((2,), scale))
        counter.steps = 0
        expected = cge(here(corrector, objective), few, 1e-3)
        steps, counter.steps = counter.steps, 0
        found = cge(there(corrector, objective), few, 1e-3)
        assert found.gradient.equal(expected.gradient)
        assert counter.steps == steps > 0
        assert len(list(tmp_path.iterdir())) == 1
        with torch.no_grad():
            next(corrector.parameters()).mul_(1.1)
    torch.set_num_threads(threads)
    corrector.eval()  # another mode is another structure
    assert there(corrector, objective)._shipment is not None
    assert len(list(tmp_path.iterdir())) == 1, "the folder before is gone"


def save_one_corrector(path):
    network = Normalised(ConvCorrector(2, 1), torch.ones(1), torch.ones(1))
    save_corrector(network, "conv", {}, "burgers", path)


def save_one_classifier(path):
    model = StandardisedClassifier(SmallCNN(1, 3), torch.zeros(1), torch.ones(1), ("a", "b", "c"))
    save_classifier(model, "cnn", {}, 1, path)


def save_one_defence(path):
    save_defended(Defence(1, 8, 3, 4, 2), 0.25, 16.0, 3, "", path)


@pytest.mark.parametrize(
    ("save", "load"),
    [
        (save_one_corrector, load_corrector),
        (save_one_classifier, load_classifier),
        (save_one_defence, partial(load_defended, classifier=lambda x: x)),
    ],
)
def test_a_model_is_loaded_without_a_random_number(save, load, tmp_path):
    save(tmp_path / "model.safetensors")
    before = torch.get_rng_state()
    model = load(tmp_path / "model.safetensors")
    assert torch.get_rng_state().equal(before)
    assert not model.training
