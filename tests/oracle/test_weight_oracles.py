"""One oracle after the other for the same network: as if each were new."""

import pytest
import torch
from torch import nn

from zopde import WeightOracle, cge
from zopde.contracts import ask_shared
from zopde.oracle import WeightOracles, graph, stack


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(), nn.Linear(4, 2)).eval()


def loss_on(x):
    return lambda f, p: ask_shared(f, p, x).view(p, -1).square().mean(dim=1)


def gradients(oracles, network, x):
    """By the kept oracle, and by a new one."""
    torch.manual_seed(1)  # Dropout's
    kept = cge(oracles(network, loss_on(x)), mu=1e-3).gradient
    torch.manual_seed(1)
    return kept, cge(WeightOracle(network, loss_on(x), 4), mu=1e-3).gradient


def change_weights(network):
    with torch.no_grad():
        network[0].weight += 1


CHANGES = {
    "weights": change_weights,
    "mode": lambda network: network.train(),
    "frozen": lambda network: network[0].requires_grad_(False),
    "layer": lambda network: network.insert(0, nn.Linear(3, 3)),
    "activation": lambda network: network.__setitem__(1, nn.ReLU()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_between_two_objectives_is_seen(name, network, gen):
    oracles = WeightOracles(4)
    first, second = torch.randn(2, 5, 3, generator=gen)
    kept, new = gradients(oracles, network, first)
    assert torch.equal(kept, new)
    torch.manual_seed(2)
    CHANGES[name](network)
    kept, new = gradients(oracles, network, second)
    assert torch.equal(kept, new)


def test_the_network_is_traced_once(network, gen, monkeypatch):
    traced, trace = [], graph.trace

    def counted(*args):
        traced.append(args)
        return trace(*args)

    for module in (graph, stack):
        monkeypatch.setattr(module, "trace", counted)
    oracles = WeightOracles(4, verify=False)
    for x in torch.randn(5, 5, 3, generator=gen):
        cge(oracles(network, loss_on(x)), mu=1e-3)
    assert 0 < len(traced) <= 3
