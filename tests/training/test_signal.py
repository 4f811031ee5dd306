"""How much of a gradient over windows is signal."""

import math
from dataclasses import dataclass

import pytest
import torch

from zopde import UnrolledObjective, Window, rollout
from zopde.blackbox import CountedSolver
from zopde.solvers.lorenz96 import Lorenz96
from zopde.training import Backprop
from zopde.training.signal import Heard, Signal, share_of_look, signal_of


@dataclass
class Slopes:
    """Windows whose gradients are given: so many times smaller over a quarter of the steps."""

    slopes: list[list[float]]
    growth: float = 5.0
    unroll: int = 8

    def pieces(self, most, steps):
        factor = 1.0 if steps == self.unroll else 1 / self.growth
        return [
            lambda network, _, row=row: (factor * torch.tensor(row) @ network.weight[0])[None]
            for row in self.slopes[:most]
        ]


@pytest.fixture
def network():
    return torch.nn.Linear(2, 1, bias=False)


def test_signal_and_noise_of_known_gradients_exact(network):
    rows = [[3.0, 1.0], [3.0, -1.0], [5.0, 1.0], [5.0, -1.0]]
    found = signal_of(network, Slopes(rows), 7)
    noise = math.sqrt((4 * 1 + 4 * 1) / (4 * 3))  # every gradient is (1, 1) off (4, 0)
    assert found.iteration == 7
    assert found.noise == pytest.approx(noise)
    assert found.signal == pytest.approx(math.sqrt(16 - noise**2))
    assert found.growth == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("signal", "noise", "growth", "lost"),
    [
        (1.0, 0.1, 1e6, False),  # large, but the windows agree
        (0.0, 1.0, 5.0, False),  # a training that is done
        (0.0, 1.0, 1e3, True),
        (math.nan, math.nan, math.inf, True),
    ],
)
def test_a_gradient_is_lost_where_it_is_noise_and_grows(signal, noise, growth, lost):
    assert Signal(0, signal, noise, growth).is_lost == lost


def test_one_window_that_outgrows_all_others_leaves_no_signal(network):
    """As gradients of chaos do."""
    found = signal_of(network, Slopes([[1e6, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), 0)
    assert found.signal < 1e-2 * found.noise


def test_a_loss_that_is_not_finite_tells_nothing(network):
    assert signal_of(network, Slopes([[math.nan, 0.0], [1.0, 0.0]]), 0) is None


def test_what_a_look_takes():
    assert share_of_look(8, 4) == pytest.approx(8 / 7)
    assert share_of_look(8, 16) == pytest.approx(4 / 7)  # eight windows of sixteen
    assert share_of_look(3, 4) == share_of_look(8, 1) == 0.0


@pytest.fixture(scope="module")
def objective_over():
    """Windows of Lorenz-96 with another forcing, by its differentiable twin."""
    solver = Lorenz96(slow=8, force=20.0)
    start = solver.scenario(4, torch.Generator().manual_seed(0)).initial.double()
    states = rollout(Lorenz96(slow=8, force=16.0), start, 180)[:, 100:]
    counter = CountedSolver(solver.differentiable_twin())

    def made(steps, nudge=0.0):
        window = Window(solver.step(states[:, 0]), states[:, 1 : steps + 1], None, states[:, 0])
        scale = torch.tensor([6.0], dtype=torch.float64)
        return UnrolledObjective(counter, window, scale, nudge=nudge), counter

    return made


class Correction(torch.nn.Module):
    """Linear in the state."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.0, 0.0]], dtype=torch.float64))

    def forward(self, state, forcing=None):
        return self.weight[0, 0] * state + self.weight[0, 1]


@pytest.mark.parametrize(
    ("steps", "nudge", "lost"), [(8, 0.0, False), (80, 0.0, True), (80, 0.3, False)]
)
def test_chaos_is_told_from_a_good_gradient(objective_over, steps, nudge, lost):
    found = signal_of(Correction(), objective_over(steps, nudge)[0], 0)
    assert found.is_lost == lost


def test_a_look_changes_no_gradient_and_its_steps_are_counted_apart(objective_over):
    seen, network, plain = [], Correction(), Correction()
    objective, counter = objective_over(8)
    source = Heard(Backprop(), 2, seen.append)
    Backprop()(plain, objective, 0)
    before, compared = counter.steps, counter.compared
    for iteration in range(3):
        measured = source(network, objective, iteration)
        assert torch.equal(network.weight.grad, plain.weight.grad)
        assert measured.queries == 1
    assert [one.iteration for one in seen] == [0, 2]
    assert counter.steps - before == 3 * 4 * 7  # the first step is stored
    assert counter.compared - compared == 2 * 4 * (7 + 1)  # of 8 and of 2 steps
