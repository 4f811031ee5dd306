"""How good an estimate says it is: against the exact gradient, by hand, and by differences."""

import math
from dataclasses import dataclass

import pytest
import torch

from zopde.blackbox import CountedSolver
from zopde.errors import SolverError
from zopde.training import Backprop, ForwardGradient, Gradient
from zopde.training.quality import EVALUATIONS, Rated

D = 24


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Linear(D, 1, bias=False, dtype=torch.float64)


def quadratic(network, num_probes=1):
    """Its gradient is known, and central differences of it are exact; of one probe."""
    x = torch.eye(D, dtype=torch.float64)
    return (network(x)[:, 0] - torch.linspace(1, 3, D, dtype=torch.float64)).square().sum()[None]


@dataclass
class Turned:
    """The exact gradient, and so many times its length across it."""

    across: float
    length: float = 1.0

    def __call__(self, network, objective, iteration):
        measured = Backprop()(network, objective, iteration)
        exact = network.weight.grad
        other = torch.zeros_like(exact).index_fill_(1, torch.arange(2), 1.0)
        other -= (other * exact).sum() / exact.square().sum() * exact
        wrong = exact + self.across * exact.norm() / other.norm() * other
        network.weight.grad = self.length * wrong
        return measured


def looked(network, source, iteration=0, objective=quadratic, **more):
    seen = []
    more = {"seed": 0, **more}
    rated = Rated(source, 1, seen.append, **more)
    rated(network, objective, iteration)
    return seen[0] if seen else None


TWIN = {"exact_at": lambda _: quadratic}


@pytest.mark.parametrize("more", [TWIN, {}])
def test_an_exact_gradient_has_cosine_1_and_no_error(network, more):
    found = looked(network, Backprop(), **more)
    assert found.cosine == pytest.approx(1, abs=1e-9)
    assert found.error < 1e-4
    assert math.isnan(found.variance)
    assert (found.iteration, found.queries) == (0, 1)
    assert found.reference == ("twin" if more else "differences")


@pytest.mark.parametrize(("across", "length"), [(1.0, 1.0), (0.5, 2.0), (3.0, 0.1)])
def test_a_known_wrong_gradient_has_the_figures_computed_by_hand(network, across, length):
    found = looked(network, Turned(across, length), **TWIN)
    assert found.cosine == pytest.approx(1 / math.hypot(1, across))
    assert found.error == pytest.approx(math.hypot(length - 1, length * across))


def test_a_gradient_the_other_way_round_has_cosine_minus_1(network):
    for more in (TWIN, {}):
        assert looked(network, Turned(0.0, -2.0), **more).cosine == pytest.approx(-1)


def test_differences_are_right_on_average_for_a_wrong_gradient(network):
    """What they say of the part across the estimate is unbiased: squared tangents are averaged."""
    across = 0.7
    found = [looked(network, Turned(across), seed=seed).cosine for seed in range(400)]
    tangents = torch.tensor([1 / cosine**2 - 1 for cosine in found])
    error = float(tangents.std() / len(found) ** 0.5)
    assert float(tangents.mean()) == pytest.approx(across**2, abs=4 * error)
    assert 4 * error < 0.25 * across**2


def test_differences_know_all_of_a_gradient_of_few_weights():
    few = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)

    def loss(network, num_probes=1):
        return network(torch.eye(2, dtype=torch.float64)).sub(1).square().sum()[None]

    def source(network, objective, iteration):
        network.weight.grad = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        return Gradient(0.0, 1)

    exact = 2 * (few.weight.detach() - 1)
    found = looked(few, source, objective=loss)
    assert found.cosine == pytest.approx(float(exact[0, 0] / exact.norm()))
    assert found.error == pytest.approx(
        float((exact - torch.tensor([[1.0, 0.0]])).norm() / exact.norm())
    )


def test_the_variance_is_that_of_the_estimate_and_falls_with_directions(network):
    means = []
    for directions in (2, 32):
        source, other = (ForwardGradient(directions, seed) for seed in (0, 1))
        rows = [looked(network, source, i, again=other, **TWIN).variance for i in range(100)]
        means.append(sum(rows) / len(rows))
    # Gaussian directions: E |g - g*|^2 = (d + 1) / q |g*|^2
    assert means == pytest.approx([(D + 1) / 2, (D + 1) / 32], rel=0.3)


def test_a_gradient_without_a_length_has_a_cosine_alone(network):
    found = looked(network, Turned(1.0), sized=False, again=Backprop(), **TWIN)
    assert found.cosine == pytest.approx(1 / math.sqrt(2))
    assert math.isnan(found.error)
    assert math.isnan(found.variance)


def test_rounding_that_drowns_the_gradient_leaves_no_figures(network):
    """Single precision resolves 1e6 to a sixteenth; the gradient is smaller than that."""
    single = network.float()

    def far(network, num_probes=1):
        return 1e6 + network(torch.eye(D)).square().sum()[None]

    found = looked(single, Backprop(), objective=far)
    assert math.isnan(found.cosine)
    assert math.isnan(found.error)

    def near(network, num_probes=1):
        return network(torch.eye(D)).square().sum()[None]

    assert looked(single, Backprop(), objective=near).cosine == pytest.approx(1, abs=1e-3)


def test_where_nothing_is_finite_or_a_step_fails_nothing_is_told(network):
    def fails(network, num_probes=1):
        raise SolverError("too far")

    def infinite(network, num_probes=1):
        return quadratic(network) * math.inf

    def no_number(network, objective, iteration):
        network.weight.grad = torch.full_like(network.weight, math.nan)
        return Gradient(0.0, 1)

    for bad in (fails, infinite):
        plain = Backprop()
        source = lambda network, _, iteration: plain(network, quadratic, iteration)  # noqa: E731,B023
        assert looked(network, source, objective=bad) is None
        assert looked(network, source, exact_at=lambda _, bad=bad: bad) is None
    assert looked(network, no_number, **TWIN) is None


class Squares:
    """A solver that is one."""

    grid = None

    def step(self, state, forcing=None):
        return state.square()


def test_a_look_changes_nothing_and_its_steps_are_counted_apart():
    """Nor a batch norm's statistics, nor torch's streams, though a network draws from them."""
    torch.manual_seed(0)
    layers = torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 3)
    network, counter = torch.nn.Sequential(*layers), CountedSolver(Squares())

    def objective(network, num_probes=1):
        with torch.no_grad():
            stepped = counter.step(torch.arange(12.0).view(4, 3))
        return network(stepped).square().mean()[None]

    def state():
        grads = [p.grad.clone() for p in network.parameters()]
        return [*grads, *(b.clone() for b in network.buffers()), torch.get_rng_state()]

    start = torch.get_rng_state(), [b.clone() for b in network.buffers()]
    Backprop()(network, objective, 0)
    plain = state()
    torch.set_rng_state(start[0])
    for buffer, value in zip(network.buffers(), start[1], strict=True):
        buffer.copy_(value)
    seen, steps = [], counter.steps
    rated = Rated(Backprop(), 2, seen.append, 0, again=Backprop())
    rated(network, objective, 0)
    assert all(torch.equal(a, b) for a, b in zip(state(), plain, strict=True))
    rated(network, objective, 1)
    assert [one.iteration for one in seen] == [0]
    assert seen[0].variance > 0
    assert counter.steps - steps == 2 * 4
    assert counter.compared == 4 * (EVALUATIONS + 1)
    assert rated.evaluations == EVALUATIONS + 1
