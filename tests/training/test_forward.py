"""Exact slopes along random directions, and what they make of them."""

import pytest
import torch

from zopde import UnrolledObjective
from zopde.blackbox import CountedSolver
from zopde.contracts import counts_of
from zopde.seeding import generator
from zopde.training import Backprop, ForwardGradient
from zopde.training.forward import has_forward_mode
from zopde.zo.rge import gaussian

SCALE = torch.tensor([0.5, 2.0], dtype=torch.float64)


def flat(network):
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def weights_of(network):
    return sum(p.numel() for p in network.parameters())


@pytest.fixture
def exact(toy, window, corrector):
    objective = UnrolledObjective(toy.differentiable_twin(), window, SCALE)
    loss = Backprop()(corrector, objective, 0).loss
    return objective, loss, flat(corrector).clone()


@pytest.mark.parametrize("forwards", [True, False])
def test_the_average_is_that_of_the_slopes_exact(exact, corrector, forwards):
    objective, loss, gradient = exact
    found = ForwardGradient(5, 3, forwards=forwards)(corrector, objective, 7)
    rows = gaussian(5, len(gradient), generator(3, "probes", 7), torch.float64)
    torch.testing.assert_close(flat(corrector), rows.T @ (rows @ gradient) / 5)
    assert found.loss == pytest.approx(loss)
    assert found.queries == 5


def test_with_as_many_directions_as_weights_a_projection_is_the_gradient():
    network = torch.nn.Linear(3, 4).double()
    x = torch.randn(5, 3, generator=generator(1, "data"), dtype=torch.float64)

    def objective(f, _):
        return f(x).tanh().square().mean()[None]

    Backprop()(network, objective, 0)
    gradient, count = flat(network).clone(), weights_of(network)
    ForwardGradient(count, 0, "project")(network, objective, 0)
    torch.testing.assert_close(flat(network), gradient, rtol=1e-5, atol=1e-9)
    ForwardGradient(count // 4, 0, "project")(network, objective, 0)
    rows = gaussian(count // 4, count, generator(0, "probes", 0), torch.float64)
    torch.testing.assert_close(flat(network), torch.linalg.pinv(rows) @ (rows @ gradient))


def test_weights_that_are_frozen_stay_out_of_it(exact, corrector):
    objective, *_ = exact
    first = next(corrector.parameters())
    first.requires_grad_(False)
    before = first.clone()
    ForwardGradient(2, 0)(corrector, objective, 0)
    assert first.grad is None
    assert torch.equal(first, before)
    assert all(p.grad is not None for p in corrector.parameters() if p.requires_grad)


@pytest.mark.parametrize("forwards", [True, False])
def test_a_direction_is_one_pass_exact(toy, window, corrector, forwards):
    counter = CountedSolver(toy.differentiable_twin())
    objective = UnrolledObjective(counter, window, SCALE)
    ForwardGradient(3, 0, forwards=forwards)(corrector, objective, 0)
    assert counts_of(counter)["steps"] == 3 * window.batch * (window.unroll - 1)


class Cubed(torch.autograd.Function):
    """An operation that has a backward derivative alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent


def test_what_has_no_forward_derivative_is_told(exact, corrector):
    objective, *_ = exact
    assert has_forward_mode(corrector, objective)
    assert not has_forward_mode(corrector, lambda f, p: Cubed.apply(objective(f, p)))
