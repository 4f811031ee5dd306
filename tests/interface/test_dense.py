import pytest
import torch

from zopde import InputError, InterfaceSolver, UnrolledObjective
from zopde.blackbox import BlackBox, CountedSolver
from zopde.interface import DensePullback, Step

ONES = torch.ones(2, dtype=torch.float64)


class Linear:
    """u' = A u + B f, the same for every state."""

    def __init__(self, grid, gen):
        self.grid = grid
        self.a, self.b = draw(gen, 2, 128, 128)

    def step(self, state, forcing=None):
        moved = state.flatten(1) @ self.a.T + forcing.flatten(1) @ self.b.T
        return moved.view_as(state)


def draw(gen, *shape):
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


def backprop(solver, network, window):
    network.zero_grad()
    UnrolledObjective(solver, window, ONES)(network, 1)[0].backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


@pytest.mark.parametrize("scheme", ["forward", "central"])
@pytest.mark.parametrize("states", [512, 7])
def test_product_of_a_linear_solver_exact(toy, gen, scheme, states):
    """A linear step has no curvature: J^T v to round-off, of the state and of the forcing."""
    linear = Linear(toy.grid, gen)
    solver = InterfaceSolver(BlackBox(linear), DensePullback(0.5, scheme, states))
    state = draw(gen, 3, 2, 8, 8).requires_grad_()
    forcing = draw(gen, 3, 2, 8, 8).requires_grad_()
    v = draw(gen, 3, 2, 8, 8)
    (solver.step(state, forcing) * v).sum().backward()
    for found, matrix in ((state.grad, linear.a), (forcing.grad, linear.b)):
        torch.testing.assert_close(found.flatten(1), v.flatten(1) @ matrix)


def test_gradient_agrees_with_autograd_through_the_twin(toy, corrector, window):
    sol = backprop(toy.differentiable_twin(), corrector, window)
    pullback = DensePullback(1e-6, "central")
    zo = backprop(InterfaceSolver(BlackBox(toy), pullback), corrector, window)
    torch.testing.assert_close(zo, sol, rtol=1e-6, atol=1e-9)


def test_zero_pullback_is_nog(toy, corrector, window):
    solver = InterfaceSolver(BlackBox(toy), lambda step, v: torch.zeros_like(step.point))
    nog = backprop(BlackBox(toy), corrector, window)
    assert torch.equal(backprop(solver, corrector, window), nog)


class Squared:
    """A quadratic step: central differences are exact, forward ones off by mu on the diagonal."""

    def __init__(self, grid, power):
        self.grid, self.power = grid, power

    def step(self, state, forcing=None):
        return state**self.power


@pytest.mark.parametrize(
    ("power", "scheme", "error"),
    [(2, "forward", lambda u, mu: mu), (3, "central", lambda u, mu: mu**2)],
)
def test_error_has_the_order_of_the_scheme(toy, gen, jacobians, power, scheme, error):
    state = draw(gen, 1, 2, 8, 8)
    solver = Squared(toy.grid, power)
    step = Step(solver, state, None, solver.step(state))
    for mu in (1e-2, 5e-3):
        found = jacobians(step, mu, scheme)[0]
        expected = power * state.flatten() ** (power - 1) + error(state, mu)
        torch.testing.assert_close(found, expected.diag(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("scheme", "factor"), [("forward", 1), ("central", 2)])
def test_queries_are_counted_exact(toy, corrector, window, scheme, factor):
    """3 windows of 4 steps: 3 solver steps each forward, and 128 probes for all of them."""
    counter = CountedSolver(BlackBox(toy))
    backprop(InterfaceSolver(counter, DensePullback(1e-6, scheme)), corrector, window)
    assert counter.steps == 3 * 3 + factor * 3 * 3 * 128


def test_only_what_is_needed_is_asked(toy, gen):
    counter = CountedSolver(toy)
    solver = InterfaceSolver(counter, DensePullback())
    state, forcing = draw(gen, 1, 2, 8, 8), draw(gen, 1, 2, 8, 8)
    assert not solver.step(state, forcing).requires_grad
    solver.step(state, forcing.requires_grad_()).sum().backward()
    assert counter.steps == 2 + 128


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0.0,), "mu"), ((1e-3, "backward"), "scheme"), ((1e-3, "forward", 0), "states")],
)
def test_wrong_settings_raise(arguments, words):
    with pytest.raises(InputError, match=words):
        DensePullback(*arguments)
