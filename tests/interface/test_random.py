import pytest
import torch

from zopde import InputError, RandomPullback
from zopde.blackbox import CountedSolver
from zopde.interface import DensePullback, Step


def step_of(solver, gen):
    state, forcing = torch.randn(2, 2, 2, 8, 8, generator=gen, dtype=torch.float64)
    return Step(solver, state, forcing, solver.step(state, forcing))


@pytest.mark.parametrize("scale", [1.0, None])
def test_product_unbiased_and_as_noisy_as_said(toy, gen, scale):
    """The mean of many products is within five standard errors of the truth, entry by entry."""
    step = step_of(toy, gen)
    v = torch.randn_like(step.stepped)
    exact, q = DensePullback(1e-6)(step, v), 4000
    error = RandomPullback(gen, q, 1e-6, scale=scale)(step, v) - exact
    squares = error.square().flatten(1).mean(dim=1)
    expected = exact.square().flatten(1).sum(dim=1) / q
    torch.testing.assert_close(squares, expected, rtol=0.5 if scale is None else 0.3, atol=0)
    assert error.abs().max() < 5 * float(expected.max()) ** 0.5


def test_queries_are_counted_exact(toy, gen):
    counter = CountedSolver(toy)
    step = step_of(counter, gen)
    RandomPullback(gen, 5, scheme="central", states=3)(step, step.stepped)
    assert counter.steps == 2 + 2 * 2 * 5


def test_wrong_settings_raise(gen):
    with pytest.raises(InputError, match="directions"):
        RandomPullback(gen, 0)
