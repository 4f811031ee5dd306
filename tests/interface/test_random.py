import pytest
import torch

from zopde import InputError, RandomPullback
from zopde.blackbox import CountedSolver
from zopde.interface import DensePullback, Step


def step_of(solver, gen):
    state, forcing = torch.randn(2, 2, 2, 8, 8, generator=gen, dtype=torch.float64)
    return Step(solver, state, forcing, solver.step(state, forcing))


@pytest.mark.parametrize("around", ["identity", "zero"])
def test_product_unbiased_and_its_variance_known(toy, gen, around):
    """The mean of many products is within four standard errors of the truth, entry by entry."""
    step = step_of(toy, gen)
    v = torch.randn_like(step.stepped)
    exact, q = DensePullback(1e-6)(step, v), 4000
    pullback = RandomPullback(gen, q, 1e-6, around=around)
    error = pullback(step, v) - exact
    assert float(error.square().mean()) == pytest.approx(pullback.variance, rel=0.3)
    assert error.abs().max() < 5 * pullback.variance**0.5


def test_identity_as_control_variate_saves_variance(toy, gen):
    step = step_of(toy, gen)
    one, other = RandomPullback(gen, 50), RandomPullback(gen, 50, around="zero")
    for pullback in (one, other):
        pullback(step, step.stepped)
    assert one.variance < 0.2 * other.variance


def test_queries_are_counted_exact(toy, gen):
    counter = CountedSolver(toy)
    step = step_of(counter, gen)
    RandomPullback(gen, 5, scheme="central", states=3)(step, step.stepped)
    assert counter.steps == 2 + 2 * 2 * 5


def test_wrong_settings_raise(gen):
    with pytest.raises(InputError, match="directions"):
        RandomPullback(gen, 0)
    with pytest.raises(InputError, match="around"):
        RandomPullback(gen, around="one")
