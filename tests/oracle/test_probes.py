"""Stacked probes against the plain loop, layer kind by layer kind."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from zopde import InputError, WeightOracle, cge


class Twice(nn.Module):
    """One layer used twice, and its weight tied into a third place."""

    def __init__(self):
        super().__init__()
        self.inner, self.tied = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.tied.weight = self.inner.weight

    def forward(self, x):
        return self.tied(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Custom(nn.Module):
    """A parameter that no layer owns."""

    def __init__(self):
        super().__init__()
        self.gain, self.layer = nn.Parameter(torch.randn(4)), nn.Linear(4, 4)

    def forward(self, x):
        return self.gain * torch.tanh(self.layer(x))


class Skips(nn.Module):
    """A small U-Net: branches, a concatenation, a residual, a stride and an upsampling."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(4, 3, 3, padding=1)
        self.down = nn.Conv2d(3, 5, 2, stride=2)
        self.deep = nn.Conv2d(5, 5, 3, padding=1, padding_mode="circular")
        self.merge = nn.Conv2d(8, 2, 3, padding=1)
        self.side = nn.Linear(4, 2)

    def forward(self, x):
        top = torch.relu(self.enter(x))
        low = torch.relu(self.down(top))
        low = low + torch.tanh(self.deep(low))
        up = F.interpolate(low, scale_factor=2.0, mode="nearest")
        both = self.merge(torch.cat([top, up], dim=1))
        mean = x.mean(dim=(2, 3)).view(x.size(0), -1)
        return torch.tanh(both * self.side(mean)[:, :, None, None])


class Sneaky(nn.Module):
    """Uses its layer's weight behind the layer's back."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.layer(x)) + F.linear(x, self.layer.weight)


class Flattens(nn.Module):
    """Mixes the batch axis into others and back: reuse must give up, not go wrong."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        y = torch.tanh(self.one(x))
        return self.two(y.flatten().view(-1, 4))


class Optional(nn.Module):
    """An argument that may be absent, as a corrector's forcing."""

    def __init__(self):
        super().__init__()
        self.layer, self.side = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x, side=None):
        y = torch.tanh(self.layer(x))
        return y if side is None else y * self.side(side)


class Untraceable(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) if x.sum() > -1e9 else x


IMAGE, LINE, VOLUME, VECTOR = (2, 4, 6, 5), (2, 4, 9), (2, 4, 4, 3, 5), (2, 4)
CASES = {
    "linear": (nn.Linear(4, 3), VECTOR),
    "linear on a sequence": (nn.Linear(4, 3), (2, 7, 4)),
    "conv1d": (nn.Conv1d(4, 3, 3, padding=1), LINE),
    "conv2d": (nn.Conv2d(4, 3, 3), IMAGE),
    "conv2d even kernel": (nn.Conv2d(4, 3, (2, 4), padding=(1, 2)), IMAGE),
    "conv2d stride": (nn.Conv2d(4, 3, 3, stride=2, padding=1), IMAGE),
    "conv2d dilation": (nn.Conv2d(4, 3, 2, dilation=(3, 2)), IMAGE),
    "conv2d groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), IMAGE),
    "conv2d depthwise": (nn.Conv2d(4, 4, 3, groups=4), IMAGE),
    "conv2d circular": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), IMAGE),
    "conv2d reflect": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), IMAGE),
    "conv2d replicate": (nn.Conv2d(4, 3, 3, padding=2, padding_mode="replicate"), IMAGE),
    "conv2d same": (nn.Conv2d(4, 3, (5, 3), padding="same", dilation=(1, 2)), IMAGE),
    "conv2d valid no bias": (nn.Conv2d(4, 3, 3, padding="valid", bias=False), IMAGE),
    "conv3d": (nn.Conv3d(4, 2, 3, padding=1, stride=(1, 2, 1)), VOLUME),
    "two layers": (
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 2)),
        IMAGE,
    ),
    "used twice and tied": (Twice(), VECTOR),
    "group norm": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.GroupNorm(3, 6), nn.Tanh()), IMAGE),
    "instance norm": (
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.Tanh()),
        IMAGE,
    ),
    "instance norm, running": (
        nn.Sequential(nn.InstanceNorm1d(4, affine=True, track_running_stats=True), nn.Tanh()),
        LINE,
    ),
    "instance norm, running, eval": (
        nn.Sequential(
            nn.InstanceNorm1d(4, affine=True, track_running_stats=True), nn.Tanh()
        ).eval(),
        LINE,
    ),
    "layer norm": (nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh()), (2, 7, 4)),
    "layer norm over an image": (nn.Sequential(nn.LayerNorm((4, 6, 5)), nn.Tanh()), IMAGE),
    "batch norm of vectors": (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), (6, 4)),
    "batch norm without statistics, eval": (
        nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.Tanh()).eval(),
        IMAGE,
    ),
    "dropout, training": (nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0)), VECTOR),
    "branches and skips": (Skips(), (2, 4, 6, 8)),
    "weight used twice, once outside": (Sneaky(), VECTOR),
    "batch axis mixed": (Flattens(), VECTOR),
    "untraceable": (Untraceable(), VECTOR),
    "custom parameter": (Custom(), VECTOR),
    "batch norm, training": (
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.Tanh()),
        IMAGE,
    ),
    "batch norm, eval": (
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.Tanh()).eval(),
        IMAGE,
    ),
}


def spread(network):
    """Weights and statistics away from their initial ones and zeros."""
    gen = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            if value.is_floating_point():
                value.add_(0.3 * torch.rand(value.shape, generator=gen, dtype=value.dtype))
    return network


def objective(x):
    """All probes see the same input: their work is shared up to the layer they move."""

    def evaluate(network, num_probes):
        y = network(x.repeat(num_probes, *[1] * (x.dim() - 1)))
        return y.view(num_probes, -1).square().mean(dim=1)

    return evaluate


def unrolled(x):
    """The second call's input depends on the probe, as in a loss that runs through a solver."""

    def evaluate(network, num_probes):
        first = x.repeat(num_probes, *[1] * (x.dim() - 1))
        y = network(first)
        state = y.flatten(1).mean(dim=1).view(-1, *[1] * (x.dim() - 1))
        z = network(first * (1 + state))
        return (y.view(num_probes, -1) - z.view(num_probes, -1).cos()).square().mean(dim=1)

    return evaluate


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("make", [objective, unrolled])
def test_stacked_agrees_with_loop_and_restores(make, name, chunk, gen):
    network, shape = CASES[name]
    network = spread(network.double())
    loss = make(torch.randn(shape, generator=gen, dtype=torch.float64))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    oracle = WeightOracle(network, loss, chunk=chunk, verify=False)
    total = oracle.num_coordinates
    indices = torch.randperm(total, generator=gen)[: min(total, 60)]
    fast = cge(oracle, indices, mu=1e-4)
    slow = cge(WeightOracle(network, loss, stacked=False), indices, mu=1e-4)
    # Two sums of the same numbers in another order, divided by mu.
    round_off = 100 * torch.finfo(torch.float64).eps * float(slow.loss.abs()) / 1e-4
    tolerance = max(1e-9 * float(slow.gradient.abs().max()), round_off)
    torch.testing.assert_close(fast.gradient, slow.gradient, rtol=0, atol=tolerance)
    assert fast.queries == slow.queries == len(indices) + 1
    assert not oracle.plain
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(module._forward_hooks for module in network.modules())


def test_agrees_with_autograd(gen):
    network = nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3)).double()
    loss = objective(torch.randn(IMAGE, generator=gen, dtype=torch.float64))
    loss(network, 1)[0].backward()
    exact = torch.cat([p.grad.flatten() for p in network.parameters()])
    found = cge(WeightOracle(network, loss), mu=1e-4, scheme="central").gradient
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-7)


def test_frozen_parameters_are_no_coordinates():
    network = nn.Linear(4, 3)
    network.weight.requires_grad_(False)
    assert WeightOracle(network, objective(torch.ones(2, 4))).num_coordinates == 3


def test_no_graph_is_built(gen):
    network = nn.Linear(4, 3)

    def loss(f, num_probes):
        assert not torch.is_grad_enabled()
        return objective(torch.ones(2, 4))(f, num_probes)

    oracle = WeightOracle(network, loss)
    assert not oracle.base().requires_grad
    assert not oracle.coordinates(torch.arange(3), 1e-3).requires_grad


def test_no_coordinates_asked():
    oracle = WeightOracle(nn.Linear(4, 3), objective(torch.ones(2, 4)))
    empty = torch.empty(0, dtype=torch.int64)
    assert cge(oracle, empty).gradient.count_nonzero() == 0


def test_what_runs_one_at_a_time_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, logger="zopde"):
        WeightOracle(Custom(), objective(torch.ones(2, 4)))
    assert "gain has no rank-one rule" in caplog.text


def test_weight_whose_layer_never_runs_is_moved_one_at_a_time(caplog):
    class Hidden(Untraceable):
        def forward(self, x):
            return F.linear(x, self.layer.weight) if x.sum() > -1e9 else x

    network, loss = spread(Hidden().double()), objective(torch.ones(2, 4, dtype=torch.float64))
    slow = cge(WeightOracle(network, loss, stacked=False), mu=1e-4).gradient
    for verify in (True, False):
        found = cge(WeightOracle(network, loss, verify=verify), mu=1e-4).gradient
        torch.testing.assert_close(found, slow, rtol=0, atol=1e-10)
    assert caplog.text.count("at layer.weight") == 2


@pytest.mark.parametrize("extra", [(), (None,), ("x",)])
def test_absent_arguments_agree(extra, gen):
    network = spread(Optional().double())
    x = torch.randn(2, 4, generator=gen, dtype=torch.float64)

    def loss(f, num_probes):
        full = x.repeat(num_probes, 1)
        y = f(full, *(full if value == "x" else value for value in extra))
        return y.view(num_probes, -1).square().mean(dim=1)

    indices = torch.arange(15 if extra != ("x",) else 30)
    fast = cge(WeightOracle(network, loss, verify=False), indices, mu=1e-4).gradient
    slow = cge(WeightOracle(network, loss, stacked=False), indices, mu=1e-4).gradient
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)


def test_shared_input_costs_less_work(gen, monkeypatch):
    """The base passes all layers once; only the first layer's 16 + 4 probes pass the third."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    rows, forward = [], nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda s, x: rows.append(len(x)) or forward(s, x))
    total = WeightOracle(network, objective(torch.ones(2, 4)), chunk=1000, verify=False)
    total.coordinates(torch.arange(60), 1e-3)
    assert rows == [2, 2, 2, 2 * 16, 2 * 4]


def test_bad_chunk_raises():
    with pytest.raises(InputError, match="chunk: got 0"):
        WeightOracle(nn.Linear(4, 3), objective(torch.ones(2, 4)), chunk=0)
