import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from zopde import WeightOracle
from zopde.nets import SmallCNN
from zopde.oracle.coordinates import Coordinates
from zopde.sparsity import FixedMask, RandomMasks
from zopde.training import (
    Backprop,
    CrossEntropy,
    Masked,
    Optimise,
    RandomDirections,
    RunningStatistics,
    ZerothOrder,
)


def problem(gen):
    x = torch.randn(12, 1, 8, 8, generator=gen)
    return CrossEntropy(x, torch.arange(12) % 4)


def network():
    torch.manual_seed(0)
    return SmallCNN(1, 4, depth=2, width=3).train()


def grads(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def test_one_loss_per_probe_agrees(gen):
    objective, net = problem(gen), network()
    found = objective(net, 1)
    assert torch.allclose(found[0], F.cross_entropy(net(objective.x), objective.labels))
    found = objective(net, 3)  # statistics of the three batches together: equal ones
    assert found.shape == (3,)
    assert torch.allclose(found, found[:1].expand(3))


def test_a_masked_gradient_is_zero_elsewhere_and_the_same_inside(gen):
    objective, net = problem(gen), network()
    Backprop()(net, objective, 0)
    whole = grads(net)
    masks = RandomMasks(len(whole), 0.7, every=1, seed=0)
    found = Masked(Backprop(), masks)(net, objective, 0)
    assert torch.equal(grads(net), whole * masks.mask(0))
    assert torch.equal(found.active, masks.mask(0))


def test_probes_leave_the_statistics_which_see_each_batch_once(gen):
    objective, net, twin = problem(gen), network(), network()
    masks = FixedMask(torch.arange(Coordinates(net).total) < 5)

    def oracle(f, loss):
        return WeightOracle(f, loss, chunk=4)

    ZerothOrder(masks, 5e-3, "forward", oracle)(net, objective, 0)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))
    found = RunningStatistics(ZerothOrder(masks, 5e-3, "forward", oracle))(net, objective, 0)
    twin(objective.x)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))
    assert found.queries == 5 + 1 + 1


def test_without_batch_norm_there_is_no_further_query(gen):
    objective = problem(gen)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    masks = FixedMask(torch.arange(260) < 5)
    source = ZerothOrder(masks, 5e-3, "forward", lambda f, loss: WeightOracle(f, loss, chunk=4))
    assert RunningStatistics(source)(net, objective, 0).queries == 6


def test_random_directions_are_a_function_of_the_iteration(gen):
    objective, net = problem(gen), network()

    def ask(iteration):
        source = RandomDirections(
            6, 1e-3, "forward", lambda f, loss: WeightOracle(f, loss, chunk=3), seed=0
        )
        assert source(net, objective, iteration).queries == 7
        return grads(net)

    assert torch.equal(ask(2), ask(2))
    assert not torch.equal(ask(2), ask(3))


def test_pruned_weights_stay_zero_under_momentum_and_decay_exact(gen):
    objective, net = problem(gen), network()
    mask = torch.arange(Coordinates(net).total) % 2 == 0
    with torch.no_grad():
        for parameter in Coordinates(net).slices:
            part = mask[parameter.start : parameter.stop].view(parameter.shape)
            net.get_parameter(parameter.name).mul_(part)
    optimise = Optimise("sgd", lr=0.1, weight_decay=0.1)
    optimizer = optimise.build(net)
    source = Masked(Backprop(), FixedMask(mask))
    for i in range(4):
        optimise.update(optimizer, net, source(net, objective, i).active, i, 4)
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert not theta[~mask].any()
    assert bool(theta[mask].any())
