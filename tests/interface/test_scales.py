"""The finite-difference step suits most cells, and where it does not, a check says so."""

import warnings

import pytest
import torch

from zopde import ColouredPullback, DensePullback, Grid
from zopde.blackbox import CountedSolver
from zopde.interface import Probing, Step, compare
from zopde.interface.vjp import Due
from zopde.interface.watch import at_other_steps

GRID = Grid((16, 16), (1.0, 1.0), 0.01, ("u",))


class Cells:
    """Every cell by itself, by a function."""

    grid = GRID

    def __init__(self, function):
        self.function = function

    def step(self, state, forcing=None):
        return self.function(state)


def step_of(function, state):
    solver = Cells(function)
    return Step(solver, state, None, solver.step(state))


def draw(gen, dtype=torch.float64):
    return torch.randn(1, 1, 16, 16, generator=gen, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [2, 3])
def test_one_large_cell_does_not_decide_for_the_others(dtype, power, gen):
    """1e3 among cells of size 1: their own derivatives are right, too."""
    state = draw(gen, dtype)
    state[..., 0, 0] = 1e3
    step, ones = step_of(lambda u: u**power, state), torch.ones_like(state)
    for pullback in (DensePullback(), ColouredPullback(GRID, (0, 0))):
        found, true = pullback(step, ones), power * state ** (power - 1)
        assert (found - true)[..., 1:, :].norm() < 0.01 * true[..., 1:, :].norm()
        assert (found - true).norm() < 0.01 * true.norm()


def test_a_large_answer_is_no_reason_for_a_large_step(gen):
    wall = torch.zeros(16, 16).double()
    wall[0] = 1e4
    state = draw(gen)
    found = DensePullback()(step_of(lambda u: u.sin() + wall, state), torch.ones_like(state))
    assert (found - state.cos()).norm() < 1e-3 * state.cos().norm()


def test_what_is_at_rest_is_measured_by_where_it_goes():
    ramp = 1e-3 * torch.linspace(-1, 1, 256).double().view(1, 1, 16, 16)
    units = Probing().units(step_of(lambda u: u + ramp, torch.zeros(1, 1, 16, 16).double()))
    assert float(units) == pytest.approx(float(ramp.std()), rel=0.5)
    still = Probing().units(step_of(lambda u: u, torch.zeros(1, 1, 16, 16)))
    assert float(still) == 1.0


def test_answers_of_an_offset_keep_their_digits(gen):
    """300 + sin u in single precision: mu of the state alone would be 30 units of rounding."""
    state = draw(gen, torch.float32)
    found = DensePullback()(step_of(lambda u: 300 + u.sin(), state), torch.ones_like(state))
    assert (found - state.cos()).norm() < 0.01 * state.cos().norm()


@pytest.mark.parametrize(
    ("function", "mu", "words"),
    [
        (lambda u: u + u**2, 1e-3, ""),
        (lambda u: u + u**2, 0.5, "at four times mu: the solver bends .*smaller mu"),
        (lambda u: (1e3 * u).round() / 1e3, 1.3e-3, "rounded, or carry noise; give a larger mu"),
        (lambda u: (1e3 * u).round() / 1e3, 0.25, ""),
    ],
)
def test_a_step_that_does_not_suit_is_told(function, mu, words, gen):
    state, v = draw(gen), draw(gen)
    step = step_of(function, state)
    dense, coloured = DensePullback(mu), ColouredPullback(GRID, (0, 0), mu)
    product = dense(step, v)
    off, text = max(at_other_steps(step, v, product, Probing(mu), gen) for _ in range(4))
    assert (off > 0.03) == bool(words)
    if words:
        assert text.startswith("a product with respect to the state is off by ")
        with pytest.warns(UserWarning, match=words):
            [coloured(step, draw(gen)) for _ in range(4)]
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            coloured(step, v)
    assert (coloured.error > 0.03) == bool(words)


def test_a_product_with_a_known_error_exact():
    """One cell: J = 2, <w, d> = +-2.2 where <v, J d> is +-2; relative to 2.2."""
    solver = CountedSolver(Cells(lambda u: 2 * u))
    solver._solver.grid = Grid((1,), (1.0,), 0.1, ("u",), dims=("x",))
    state, v = torch.ones(1, 1, 1).double(), torch.ones(1, 1, 1).double()
    step = Step(solver, state, None, 2 * state)
    off, _ = at_other_steps(step, v, 2.2 * v, Probing(), torch.Generator())
    assert off == pytest.approx(0.2 / 2.2)
    assert solver.counts() == {"checking": 4}


def test_a_product_of_nothing_agrees(gen):
    """A mean that is taken away, and a loss that is the mean: round-off alone is left."""
    state = draw(gen, torch.float32)
    step, ones = step_of(lambda u: u - u.mean(), state), torch.ones_like(state)
    product = DensePullback()(step, ones)
    assert at_other_steps(step, ones, product, Probing(), gen)[0] < 0.03


def test_responses_at_two_steps_that_differ_are_seen(gen):
    state = draw(gen)
    bent = compare(
        step_of(lambda u: u + u**2, state), lambda d: (1 + 2 * state) * d, Probing(), gen
    )
    assert max(bent.error, bent.whole, bent.apart) < 0.01
    coarse = compare(step_of(lambda u: (1e3 * u).round() / 1e3, state), lambda d: d, Probing(), gen)
    assert coarse.apart > 0.3
    assert coarse.error < 0.2, "of both steps the better one"


def test_the_first_products_are_looked_at_more_often_exact():
    assert [n for n in range(31) if n in Due()] == [0, 1, 3, 7, 10, 20, 30]
    assert [n for n in range(5) if n in Due(2)] == [0, 1, 2, 4]
    assert not any(n in Due(0) for n in range(9))
