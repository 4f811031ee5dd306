import csv
import math

import pytest
import torch
from torch import nn

from zopde import InputError, WeightOracle
from zopde.sparsity import RandomMasks
from zopde.training import (
    Backprop,
    Gradient,
    Optimise,
    ZerothOrder,
    cosine,
    fit,
    load_checkpoint,
    save_checkpoint,
)


def objective_at(iteration):
    """Least squares on a batch that is a function of the iteration."""
    gen = torch.Generator().manual_seed(iteration)
    x = torch.randn(8, 4, generator=gen, dtype=torch.float64)
    y = x.sum(dim=1, keepdim=True)

    def objective(network, num_probes):
        error = network(x.repeat(num_probes, 1)) - y.repeat(num_probes, 1)
        return error.view(num_probes, -1).square().mean(dim=1)

    return objective


def network():
    torch.manual_seed(0)
    return nn.Linear(4, 1).double()


def zeroth_order():
    masks = RandomMasks(5, 0.4, every=3, seed=0)
    return ZerothOrder(masks, 1e-5, "forward", lambda f, loss: WeightOracle(f, loss, chunk=2))


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_relative_mu_follows_the_weights_exact():
    """Forward differences of least squares are off by mu H_ii / 2, with mu that of the tensor."""
    net = network()
    source = ZerothOrder(
        RandomMasks(5, 0.0, every=1, seed=0), 1e-2, "forward", WeightOracle, relative=True
    )
    for scale in (1.0, 3.0):
        with torch.no_grad():
            net.weight.fill_(scale)
            net.bias.fill_(2 * scale)
        objective = objective_at(0)
        Backprop()(net, objective, 0)
        exact = net.bias.grad.item()
        source(net, objective, 0)
        assert net.bias.grad.item() - exact == pytest.approx(1e-2 * 2 * scale, rel=1e-6)


def test_schedule_golden():
    assert [cosine(i, 10, 2) for i in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert cosine(6, 10, 2) == pytest.approx(0.5)
    assert cosine(10, 10, 2) == pytest.approx(0.0)


@pytest.mark.parametrize("source", [Backprop(), zeroth_order()])
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_training_reaches_the_solution(source, name, tmp_path):
    net = network()
    optimise = Optimise(name, lr=0.1 if name == "adam" else 0.05)
    cost = fit(net, objective_at, source, optimise, 400, tmp_path)
    assert cost.iterations == 400
    torch.testing.assert_close(net.weight.detach(), torch.ones(1, 4).double(), atol=0.01, rtol=0)


def test_zeroth_order_fills_the_gradient_of_the_mask():
    net, source = network(), zeroth_order()
    found = source(net, objective_at(0), 0)
    sparse = torch.cat([p.grad.flatten() for p in net.parameters()])
    Backprop()(net, objective_at(0), 0)
    exact = torch.cat([p.grad.flatten() for p in net.parameters()])
    assert found.queries == 4
    assert found.active.sum() == 3
    torch.testing.assert_close(sparse, exact * found.active, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_inactive_coordinates_keep_weight_and_moments(name):
    """Neither momentum nor weight decay may move what was not asked about."""
    net = network()
    optimise = Optimise(name, lr=0.1, weight_decay=0.3)
    optimizer = optimise.build(net)
    everything = torch.ones(5, dtype=torch.bool)
    Backprop()(net, objective_at(0), 0)
    optimise.update(optimizer, net, everything, 0, 10)
    before = weights(net)
    moment = "exp_avg" if name == "adam" else "momentum_buffer"
    moments = optimizer.state[net.weight][moment].clone()
    active = torch.tensor([True, False, True, False, False])
    Backprop()(net, objective_at(1), 1)
    optimise.update(optimizer, net, active, 1, 10)
    moved = weights(net) != before
    assert torch.equal(moved, active)
    kept = optimizer.state[net.weight][moment] == moments
    assert torch.equal(kept.flatten(), ~active[:4])


def test_clipping_bounds_the_update():
    net = network()
    optimise = Optimise("sgd", lr=1.0, clip=1e-3)
    optimizer = optimise.build(net)
    before = weights(net)
    Backprop()(net, objective_at(0), 0)
    optimise.update(optimizer, net, None, 0, 10)
    assert (weights(net) - before).norm() == pytest.approx(1e-3, rel=1e-3)


class Killed(BaseException):
    """Like kill -9: nothing of ours may handle it."""


@pytest.mark.parametrize("make", [Backprop, zeroth_order])
@pytest.mark.parametrize("killed_at", [0, 1, 7, 11])
def test_killed_and_resumed_is_identical_resumes(make, killed_at, tmp_path):
    def run(folder, kill=None):
        source, net, calls = make(), network(), iter(range(1000))

        def gradient(net, objective, iteration):
            if next(calls) == kill:
                raise Killed
            return source(net, objective, iteration)

        optimise = Optimise("adam", lr=0.05, warmup=3, clip=1.0)
        cost = fit(net, objective_at, gradient, optimise, 12, folder, every_seconds=0.0)
        return weights(net), cost

    whole, cost = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "parts", kill=killed_at)
    resumed, resumed_cost = run(tmp_path / "parts")
    assert torch.equal(whole, resumed)
    assert resumed_cost.queries == cost.queries
    assert resumed_cost.checking == cost.checking

    def history(name):
        with (tmp_path / name / "history.csv").open() as file:
            return [row[:4] for row in csv.reader(file)]

    assert history("whole") == history("parts")
    assert len(history("whole")) == 13


def test_not_finite_stops_at_the_last_finite_weights(tmp_path):
    net = network()

    def gradient(net, objective, iteration):
        Backprop()(net, objective, iteration)
        if iteration == 4:
            net.weight.grad.fill_(math.nan)
        return Gradient(1.0, 1)

    cost = fit(net, objective_at, gradient, Optimise(lr=0.01), 10, tmp_path)
    assert cost.stopped == "gradient not finite at iteration 4"
    assert weights(net).isfinite().all()
    assert fit(network(), objective_at, gradient, Optimise(), 10, tmp_path).stopped


def test_weights_that_move_nothing_are_told(tmp_path):
    """A loss that does not see the network has a gradient of zeros, and trains nothing."""

    def deaf(at):
        return lambda network, num_probes: network(torch.zeros(1, 4).double()).sum(dim=1) * 0 + 0.25

    with pytest.raises(InputError, match=r"exactly 0 at 10 iterations in a row.* loss is 0\.25"):
        fit(network(), deaf, Backprop(), Optimise("adam", 1e-2), 20, tmp_path)

    def late(at):  # nine in a row may be chance, and a loss of zero is as good as can be
        return objective_at(at) if at % 10 == 9 else deaf(at)

    assert fit(network(), late, Backprop(), Optimise("adam", 1e-2), 20, tmp_path).iterations == 20


def test_checkpoint_is_written_whole(tmp_path):
    path = tmp_path / "checkpoint.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"a": torch.ones(3), "b": 2})
    assert load_checkpoint(path)["b"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_unreadable_checkpoint_raises(content, tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"a": torch.ones(300)})
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(InputError, match="expected a checkpoint of zopde"):
        load_checkpoint(path)
