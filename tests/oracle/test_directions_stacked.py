"""Probes along directions: under vmap, and one at a time."""

import logging

import pytest
import torch
from torch import nn

from zopde import InputError, WeightOracle, rge
from zopde.contracts import ask_shared


class Custom(nn.Module):
    """A parameter that no layer owns, and one that is tied."""

    def __init__(self):
        super().__init__()
        self.gain, self.one, self.two = nn.Parameter(torch.randn(4)), *(nn.Linear(4, 4),) * 2
        self.three = nn.Linear(4, 4, bias=False)
        self.three.weight = self.one.weight

    def forward(self, x):
        return self.three(self.gain * torch.tanh(self.two(torch.tanh(self.one(x)))))


class Branches(nn.Module):
    """Control flow on the data, which vmap cannot follow."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        y = self.layer(x)
        return y if y.sum() > 0 else 2 * y


IMAGE, VECTOR, TOKENS = (2, 4, 6, 5), (2, 4), (2, 5, 4)
FOLLOWED = {
    "conv": (
        nn.Sequential(nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), nn.GELU()),
        IMAGE,
    ),
    "in-place": (
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)),
        IMAGE,
    ),
    "batch norm, training": (
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.Tanh()),
        IMAGE,
    ),
    "batch norm, eval": (nn.Sequential(nn.BatchNorm2d(4), nn.Tanh()).eval(), IMAGE),
    "instance norm, running": (nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGE),
    "custom and tied": (Custom(), VECTOR),
    "attention": (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), TOKENS),
    "attention, eval": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(), TOKENS),
}
LEFT = {
    "control flow": (Branches(), VECTOR),
    "no batching rule": (nn.RNN(4, 3, batch_first=True), TOKENS),
}


def objective(x):
    def evaluate(network, num_probes):
        y = network(x.repeat(num_probes, *[1] * (x.dim() - 1)))
        y = y[0] if isinstance(y, tuple) else y
        return y.reshape(num_probes, -1).square().mean(dim=1)

    return evaluate


def shared(x):
    def evaluate(network, num_probes):
        y = ask_shared(network, num_probes, x)
        y = y[0] if isinstance(y, tuple) else y
        return y.reshape(num_probes, -1).square().mean(dim=1)

    return evaluate


@pytest.mark.parametrize("name", [*FOLLOWED, *LEFT])
@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize("make", [objective, shared])
def test_together_agrees_with_one_at_a_time_and_restores(make, name, chunk, gen, caplog):
    network, shape = {**FOLLOWED, **LEFT}[name]
    network = network.double()
    loss = make(torch.randn(shape, generator=gen, dtype=torch.float64))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    own = {k: id(v) for k, v in network.named_parameters()}
    oracle = WeightOracle(network, loss, chunk=chunk, verify=False)
    along = torch.randn(7, oracle.num_coordinates, generator=gen, dtype=torch.float64)
    with caplog.at_level(logging.DEBUG, logger="zopde.oracle.vmapped"):
        fast = oracle.directions(along, 1e-2)
    slow = WeightOracle(network, loss, stacked=False).directions(along, 1e-2)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=0)
    assert len(set(fast.tolist())) == 7
    assert ("one at a time" in caplog.text) == (name in LEFT)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert {k: id(v) for k, v in network.named_parameters()} == own


def test_random_layers_are_asked_one_at_a_time(caplog):
    network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    oracle = WeightOracle(network, objective(torch.ones(2, 4)))
    with caplog.at_level(logging.DEBUG, logger="zopde"):
        oracle.directions(torch.ones(3, 15), 1e-2)
    assert "random operation" in caplog.text


def test_directions_are_moves_of_the_weights_exact(gen):
    network = nn.Linear(3, 2).double()
    x = torch.randn(4, 3, generator=gen, dtype=torch.float64)
    oracle = WeightOracle(network, objective(x))
    along = torch.randn(5, 8, generator=gen, dtype=torch.float64)
    found = oracle.directions(along, -0.1)
    for u, answer in zip(along, found, strict=True):
        weight = network.weight - 0.1 * u[:6].view(2, 3)
        y = x @ weight.T + network.bias - 0.1 * u[6:]
        torch.testing.assert_close(answer, y.square().mean())


def test_a_unit_direction_agrees_with_a_coordinate(gen):
    network = nn.Sequential(nn.Conv2d(4, 3, 3), nn.Tanh()).double()
    oracle = WeightOracle(network, objective(torch.randn(IMAGE, generator=gen).double()))
    units = torch.eye(oracle.num_coordinates)
    some = torch.arange(0, oracle.num_coordinates, 7)
    torch.testing.assert_close(oracle.directions(units[some], 1e-2), oracle.coordinates(some, 1e-2))


def test_absent_arguments_and_no_graph(gen):
    class Maybe(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x, side=None):
            assert not torch.is_grad_enabled()
            return self.layer(x) if side is None else self.layer(side)

    def loss(f, num_probes):
        return f(torch.ones(2 * num_probes, 4), None).view(num_probes, -1).mean(dim=1)

    found = WeightOracle(Maybe(), loss).directions(torch.ones(3, 15), 1e-2)
    assert found.shape == (3,)
    assert not found.requires_grad


def test_copies_of_the_weights_stay_within_memory(monkeypatch, gen):
    network, seen = nn.Linear(4, 3), []

    def loss(f, num_probes):
        seen.append(num_probes)
        return objective(torch.ones(2, 4))(f, num_probes)

    monkeypatch.setattr("zopde.oracle.vmapped._COPIES", 8 * 15 * 4)
    rge(WeightOracle(network, loss, verify=False), 10, 1e-2, gen)
    assert seen == [1, 4, 4, 2]


@pytest.mark.parametrize("along", [torch.ones(15), torch.ones(2, 14), torch.ones(2, 15).long()])
def test_raises(along):
    with pytest.raises(InputError, match=r"expected floating-point numbers of shape \(q, 15\)"):
        WeightOracle(nn.Linear(4, 3), objective(torch.ones(2, 4))).directions(along, 1e-2)
