"""Every way of answering probes gives the same gradient, on networks of every kind."""

import sys
from pathlib import Path

import pytest
import torch

from zopde import ExecutorOracle, WeightOracle, WorkerPool, cge
from zopde.contracts import ask_shared
from zopde.oracle.one_channel import OneChannel
from zopde.oracle.reuse import Reuse

sys.path.insert(0, str(Path(__file__).parent))  # for the workers, too, who inherit it
import networks


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as workers:
        yield workers


def case(name, gen):
    make, shape = networks.NETWORKS[name]
    torch.manual_seed(0)
    network = make().double()
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            if value.is_floating_point():
                value.add_(0.3 * torch.rand(value.shape, generator=gen, dtype=value.dtype))
    x = torch.randn(shape, generator=gen, dtype=torch.float64)

    return network, networks.MeanSquare(x)


WAYS = {
    "stacked": {"chunk": 16, "reuse": False},
    "reuse and delta": {"chunk": 16},
    "one probe per pass": {"chunk": 1},
    "all in one pass": {"chunk": 10**6},
    "calibrated": {},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_way_agrees_with_the_loop(name, way, gen):
    network, objective = case(name, gen)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    oracle = WeightOracle(network, objective, **WAYS[way], verify=False)
    fast = cge(oracle, mu=1e-4)
    assert not oracle.plain
    slow = cge(WeightOracle(network, objective, stacked=False), mu=1e-4)
    assert fast.queries == slow.queries
    error = (fast.gradient - slow.gradient).norm() / slow.gradient.norm()
    assert error <= 1e-9
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_workers_agree_bit_for_bit(name, pool, gen):
    network, objective = case(name, gen)
    here = cge(WeightOracle(network, objective, chunk=16), mu=1e-4)
    there = cge(ExecutorOracle(network, objective, pool, chunk=16), mu=1e-4)
    assert torch.equal(here.gradient, there.gradient)
    assert here.queries == there.queries


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_gradient_is_that_of_autograd(name, gen):
    network, objective = case(name, gen)
    found = cge(WeightOracle(network, objective), mu=1e-5, scheme="central").gradient
    objective(network, 1).sum().backward()
    exact = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert torch.cosine_similarity(found, exact, dim=0) > 0.99999


@pytest.mark.parametrize("name", ["resnet", "u-net", "cnn", "mlp"])
def test_probes_stay_one_channel_wide_until_channels_mix(name, gen, monkeypatch):
    """Of the values behind a moved layer, many are one channel wide: delta propagation works."""
    narrow, whole = [], []
    run = Reuse._run

    def watched(self, node, i):
        found = run(self, node, i)
        (narrow if isinstance(found, OneChannel) else whole).append(node.name)
        return found

    monkeypatch.setattr(Reuse, "_run", watched)
    network, objective = case(name, gen)
    WeightOracle(network, objective, chunk=50, verify=False).coordinates(torch.arange(50), 1e-4)
    # The norm and the pool behind the first convolution of "cnn" are one piece of work.
    assert len(narrow) >= (1 if name == "cnn" else 2)
    assert whole  # and it does end where channels mix


def test_overwritten_values_that_are_read_again_end_reuse(gen):
    class Rereads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)

        def forward(self, x):
            y = self.one(x)
            z = torch.relu_(y)
            return self.two(y + z)

    network, x = Rereads().double(), torch.randn(4, 3, generator=gen, dtype=torch.float64)

    def objective(f, num_probes):
        return ask_shared(f, num_probes, x).view(num_probes, -1).square().mean(dim=1)

    fast = cge(WeightOracle(network, objective, verify=False), mu=1e-4).gradient
    slow = cge(WeightOracle(network, objective, stacked=False), mu=1e-4).gradient
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_same_gradient_on_the_gpu(name, gen):
    network, objective = case(name, gen)
    here = cge(WeightOracle(network, objective), mu=1e-4)
    moved = networks.MeanSquare(objective.x.cuda())
    there = cge(WeightOracle(network.cuda(), moved), mu=1e-4)
    error = (there.gradient.cpu() - here.gradient).norm() / here.gradient.norm()
    assert error <= 1e-7
