"""Classifiers and operators with complex weights, trained from end to end."""

from importlib.util import find_spec

import pytest
import torch
from references import autograd, seeded
from torch import nn

from zopde import (
    InputError,
    UnrolledObjective,
    WeightOracle,
    Window,
    cge,
    load_classification,
    load_classifier,
    run_classification,
)
from zopde.interface import DensePullback, InterfaceSolver
from zopde.oracle.coordinates import Coordinates
from zopde.sparsity import (
    RandomMasks,
)
from zopde.training import (
    Backprop,
    Optimise,
    ZerothOrder,
    fit,
)

CLASSIFIER = """
import torch

class Net(torch.nn.Module):
    def __init__(self, channels, classes, double=0, answer=0):
        super().__init__()
        dtype = torch.complex128 if double else torch.complex64
        self.modes = torch.nn.Parameter(torch.full((3, 3), 1 + 1j, dtype=dtype))
        self.head, self.answer = torch.nn.Linear(9 * channels, classes), answer

    def forward(self, x):
        modes = torch.fft.fft2(x)[..., :3, :3] * self.modes / 10
        logits = self.head(modes.real.flatten(1).float())
        return logits * 1j if self.answer else logits
"""


def classified(folder, sizes, methods):
    (folder / "mine.py").write_text(CLASSIFIER)
    changes = ["training.batch=480", "zo.sparsity=0.5", "zo.score_directions=4", "run.seeds=[0]"]
    changes += ["zo.score_images=2", 'training.length="2 iterations"', f"run.methods={methods}"]
    changes += [f'network.kind="{folder / "mine.py"}:Net"', f"network.sizes={sizes}"]
    changes += ['training.warmup="1 iteration"']
    return run_classification(load_classification("quick", None, changes), folder / "run")


def test_a_complex_classifier_from_the_settings(tmp_path):
    """Pruned, masked by scores, trained by queries, and read back from its file."""
    metrics = classified(tmp_path, "{}", '["FO-sparse-weights", "CGE", "DeepZero"]')
    assert metrics["parameters"] == 2 * 9 + 9 * 10 + 10
    for name in metrics["methods"]:
        model = load_classifier(tmp_path / "run" / name / "seed-0" / "model.safetensors")
        assert model.body.modes.dtype == torch.complex64
        assert (model.body.modes.imag != 1).any(), name


@pytest.mark.parametrize(("sizes", "reason"), [("double=1", "complex128"), ("answer=1", "complex")])
def test_a_classifier_that_no_file_or_loss_takes_is_refused(sizes, reason, tmp_path):
    with pytest.raises(InputError, match=f"network: got .*{reason}"):
        classified(tmp_path, f"{{{sizes}}}", '["FO"]')


# A Fourier neural operator corrects a solver.


class Fourier(nn.Module):
    """Two Fourier layers of few modes, as small as they come."""

    def __init__(self, channels, modes=3, width=2):
        super().__init__()
        self.lift = nn.Conv2d(channels, width, 1)
        weights = torch.randn(2, width, width, modes, modes, dtype=torch.cfloat) / width
        self.spectral = nn.Parameter(weights)
        self.beside = nn.Conv2d(width, width, 1)
        self.project = nn.Conv2d(width, channels, 1)
        self.modes = modes

    def forward(self, x):
        x = self.lift(x)
        for weight in self.spectral:
            low = torch.fft.rfft2(x)[..., : self.modes, : self.modes]
            pad = (0, x.shape[-1] // 2 + 1 - self.modes, 0, x.shape[-2] - self.modes)
            mixed = torch.einsum("bixy,ioxy->boxy", low, weight)
            moved = torch.fft.irfft2(nn.functional.pad(mixed, pad), s=x.shape[-2:])
            x = nn.functional.gelu(moved + self.beside(x))
        return self.project(x)


def of_neuralop(channels):
    from neuralop.models import FNO

    ratios = {"lifting_channel_ratio": 1, "projection_channel_ratio": 1}
    return FNO((3, 3), channels, channels, hidden_channels=2, n_layers=1, **ratios)


OPERATORS = [Fourier] + [of_neuralop] * (find_spec("neuralop") is not None)


class Corrector(nn.Module):
    def __init__(self, operator):
        super().__init__()
        torch.manual_seed(0)
        self.body = operator(2)

    def forward(self, state, forcing):
        return 0.3 * self.body(state)


def problem(toy, differentiable=False):
    """To follow a solver of another viscosity for three steps; its loss over any solver."""
    torch.manual_seed(0)
    true = type(toy)((8, 8), viscosity=0.6)
    scenario = true.scenario(4, seeded())
    states = [scenario.initial.float()]
    forcing = torch.stack([scenario.forcing(k) for k in range(3)], dim=1).float()
    for k in range(3):
        states.append(true.step(states[-1], forcing[:, k]).float())
    window = Window(None, torch.stack(states[1:], dim=1), forcing, states[0])
    return lambda solver: UnrolledObjective(solver, window, torch.full((2,), 0.3))


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_operators_gradient_is_that_of_the_differentiable_twin(operator, toy):
    network, loss_over = Corrector(operator), problem(toy)
    exact = autograd(network, loss_over(toy.differentiable_twin()))
    for stacked in (True, False):
        oracle = WeightOracle(network, loss_over(toy), stacked=stacked)
        found = cge(oracle, mu=1e-3, scheme="central").gradient
        assert torch.cosine_similarity(found, exact, dim=0) > 0.9999


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("cut", ["weights", "interface"])
def test_an_operator_trains_through_the_black_box(operator, cut, toy, tmp_path):
    network, loss_over = Corrector(operator), problem(toy)
    objective = loss_over(toy)
    before = float(objective(network, 1).detach())
    spectral = [p for p in network.parameters() if p.is_complex()]
    started = [p.detach().clone() for p in spectral]
    if cut == "weights":
        masks = RandomMasks(Coordinates(network).total, 0.5, every=1, seed=0)
        source = ZerothOrder(masks, 1e-3, "forward", WeightOracle)
    else:
        source, objective = Backprop(), loss_over(InterfaceSolver(toy, DensePullback(1e-3)))
    fit(network, lambda _: objective, source, Optimise("adam", lr=0.03), 30, tmp_path)
    after = float(loss_over(toy)(network, 1).detach())
    assert after < 0.75 * before
    assert all(((p - old).imag != 0).any() for p, old in zip(spectral, started, strict=True))
