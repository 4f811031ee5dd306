"""Gradients by units agree with back-propagation, and what they assume is examined."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from zopde import InputError
from zopde.contracts import ask_shared
from zopde.errors import ObjectiveError
from zopde.oracle import UnitOracle, WeightOracles, unit_checks, units
from zopde.oracle.unit_change import UnitChange
from zopde.training import CrossEntropy
from zopde.zo import unitwise

MU = 1e-6


def mlp():
    return nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def cnn(norm):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), norm(4), nn.SiLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), norm(8), nn.SiLU(),
        nn.Conv2d(8, 6, (2, 1), padding_mode="circular", padding=(0, 1), bias=False), nn.Tanh(),
        nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def frozen(net, x):
    """BatchNorm whose statistics are those of some data, in eval mode."""
    net(x)
    return net.eval()


class Pieces(nn.Module):
    """A linear layer with its channels behind a second axis, and a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.wide, self.twice, self.leave = nn.Linear(9, 2), nn.Linear(2, 2), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.tanh(self.wide(x.view(len(x), 4, 9)))
        return self.leave(torch.tanh(self.twice(self.twice(x))).flatten(1))


NETWORKS = {
    "mlp": (mlp, (12,)),
    "group norms": (lambda: cnn(lambda c: nn.GroupNorm(2, c)), (2, 8, 8)),
    "frozen norms": (lambda: frozen(cnn(nn.BatchNorm2d), torch.randn(9, 2, 8, 8)), (2, 8, 8)),
    "an axis more": (Pieces, (36,)),
}


def case(name, batch=5, dtype=torch.float64):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    net = make().to(dtype)
    x = torch.randn(batch, *shape, dtype=dtype)
    return net, CrossEntropy(x, torch.arange(batch) % 3)


def exact(net, objective):
    loss = objective(net, 1).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*net.parameters()])])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_units_and_back_propagation_agrees(name, scheme):
    net, objective = case(name)
    estimate = unitwise(UnitOracle(net, objective, 4), mu=MU, scheme=scheme)
    torch.testing.assert_close(estimate.gradient, exact(net, objective), rtol=0, atol=1e-6)
    assert estimate.queries < sum(p.numel() for p in net.parameters())
    assert estimate.checking > 0
    torch.testing.assert_close(estimate.loss, objective(net, 1)[0].detach())


class Counting(CrossEntropy):
    """Counts the probes that it is asked for."""

    def per_sample(self, network, num_probes):
        COUNT.append(num_probes)
        return super().per_sample(network, num_probes)


COUNT = []


@pytest.mark.parametrize("scheme", ["forward", "central"])
@pytest.mark.parametrize("name", NETWORKS)
def test_queries_are_what_was_asked_exact(name, scheme):
    net, objective = case(name)
    oracle = UnitOracle(net, Counting(objective.x, objective.labels), 4, verify=False)
    COUNT.clear()
    estimate = unitwise(oracle, mu=MU, scheme=scheme)
    assert sum(COUNT) == estimate.queries
    assert estimate.checking == 0


def test_every_layer_takes_the_fewer_exact():
    net, objective = case("mlp")
    oracle = UnitOracle(net, objective, 4)
    assert unitwise(oracle, mu=MU).queries == 6 + 5 + 3 + 1
    few = torch.tensor([0, 1, 2, *range(78, 78 + 35), 130])  # the second layer's, and some
    estimate = unitwise(oracle, few, MU)
    assert estimate.queries == 3 + 5 + 1 + 1
    inside = torch.zeros(oracle.num_coordinates).bool()
    inside[few] = True
    expected = torch.where(inside, exact(net, objective), 0)
    torch.testing.assert_close(estimate.gradient, expected, rtol=0, atol=1e-6)


def test_the_same_bits_again_and_after_an_update():
    net, objective = case("group norms", dtype=torch.float32)
    oracles = WeightOracles(4, make=UnitOracle)
    first = unitwise(oracles(net, objective)).gradient
    again = unitwise(oracles(net, objective)).gradient
    assert torch.equal(first, again)
    with torch.no_grad():
        net[0].weight.mul_(0.5)
    updated = unitwise(oracles(net, objective)).gradient
    torch.testing.assert_close(updated, exact(net, objective), rtol=0, atol=2e-3)
    assert torch.equal(updated, unitwise(UnitOracle(net, objective, 4)).gradient)


def test_no_autograd_is_needed_and_the_network_stays_as_it_is():
    net, objective = case("group norms")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.inference_mode():
        found = unitwise(UnitOracle(net, objective), mu=MU).gradient
    torch.testing.assert_close(found.clone(), exact(net, objective), rtol=0, atol=1e-6)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(module._forward_hooks for module in net.modules())


def test_batch_norm_in_train_mode_raises():
    net, objective = cnn(nn.BatchNorm2d).double(), case("group norms")[1]
    with pytest.raises(InputError, match=r"BatchNorm in train mode at '1'.*groups=2"):
        UnitOracle(net, objective)
    oracle = UnitOracle(net.eval(), objective)
    net.train()
    with pytest.raises(InputError, match="BatchNorm in train mode"):
        unitwise(oracle)


def test_an_objective_without_samples_raises():
    with pytest.raises(ObjectiveError, match="per_sample"):
        UnitOracle(mlp(), lambda network, p: network(torch.zeros(p, 12)).mean(dim=1))


class Sum(CrossEntropy):
    def __call__(self, network, num_probes):
        return self.per_sample(network, num_probes).sum(dim=1)


class Flat(CrossEntropy):
    def per_sample(self, network, num_probes):
        return super().per_sample(network, num_probes).flatten()


class Contrast(CrossEntropy):
    """Answers are compared with the batch's mean."""

    def per_sample(self, network, num_probes):
        answers = ask_shared(network, num_probes, self.x).view(num_probes, len(self.x), -1)
        return (answers - answers.mean(dim=1, keepdim=True)).square().sum(dim=2)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Sum, "mean"), (Flat, "shape"), (Contrast, "the loss of a sample depends on another")],
)
def test_losses_of_no_samples_apart_raises(kind, words):
    net, objective = case("mlp")
    with pytest.raises(ObjectiveError, match=words):
        unitwise(UnitOracle(net, kind(objective.x, objective.labels)))


class Mixing(nn.Module):
    """Subtracts the batch's mean, in a layer of its own kind."""

    def forward(self, x):
        return x - x.mean(dim=0)


def test_a_network_that_mixes_samples_raises():
    _, objective = case("mlp")
    net = nn.Sequential(nn.Linear(12, 6), Mixing(), nn.Linear(6, 3)).double()
    with pytest.raises(ObjectiveError, match="the loss of a sample depends on another"):
        unitwise(UnitOracle(net, objective))


class Outside(nn.Module):
    """Reads a layer's weight beside the layer, in code that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x):
        size = self.enter.weight.norm() if float(x.detach().sum()) < 1e9 else 0
        return self.leave(torch.tanh(self.enter(x)) * size)


class InFront(Outside):
    """Reads it in front of the layer."""

    def forward(self, x):
        size = self.enter.weight.norm() if float(x.detach().sum()) < 1e9 else 0
        return self.leave(torch.tanh(self.enter(x * size)))


@pytest.mark.parametrize(
    ("kind", "words"), [(Outside, "outside its output"), (InFront, "in front")]
)
def test_a_weight_that_acts_elsewhere_is_probed_itself_agrees(kind, words, caplog):
    _, objective = case("mlp")
    torch.manual_seed(1)
    net = kind().double()
    found = unitwise(UnitOracle(net, objective), mu=MU)
    assert found.queries == 78 + 3 + 1
    assert f"units of enter.weight: its weight acts {words}" in caplog.text
    torch.testing.assert_close(found.gradient, exact(net, objective), rtol=0, atol=2e-6)


def test_a_wrong_rule_is_found(monkeypatch, caplog):
    net, objective = case("group norms")
    right = units.weight_gradient
    monkeypatch.setattr(
        unit_checks, "weight_gradient", lambda *given: right(*given[:2], 0.9 * given[2])
    )
    found = unitwise(UnitOracle(net, objective, 4), mu=MU)
    assert "its gradient does not follow from its input" in caplog.text
    assert found.queries == sum(p.numel() for p in net.parameters()) + 1
    torch.testing.assert_close(found.gradient, exact(net, objective), rtol=0, atol=1e-6)


@pytest.mark.parametrize("faulty", [lambda self, y: y.add_(1e-3), lambda self, y: 1 / 0])
def test_wrong_stacked_units_are_found(monkeypatch, caplog, faulty):
    net, objective = case("group norms")
    monkeypatch.setattr(UnitChange, "_add_steps", faulty)
    found = unitwise(UnitOracle(net, objective, 4), mu=MU)
    assert "stacked units differ from single ones" in caplog.text or "ZeroDivision" in caplog.text
    assert found.queries == sum(p.numel() for p in net.parameters()) + 1
    torch.testing.assert_close(found.gradient, exact(net, objective), rtol=0, atol=1e-6)


def test_it_is_examined_again_at_some_gradients_exact():
    net, objective = case("mlp")
    oracles = WeightOracles(4, make=UnitOracle)
    checking = [unitwise(oracles(net, objective), mu=MU).checking for _ in range(9)]
    assert [n + 1 for n, queries in enumerate(checking) if queries] == [1, 4, 8]


class Doubled(nn.Linear):
    """Another kind of layer, by a forward of its own."""

    def forward(self, x):
        return F.linear(x, 2 * self.weight, self.bias)


def test_a_layer_of_another_kind_is_probed_by_weights_agrees():
    _, objective = case("mlp")
    torch.manual_seed(1)
    net = nn.Sequential(Doubled(12, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    found = unitwise(UnitOracle(net, objective), mu=MU)
    assert found.queries == 78 + 3 + 1
    torch.testing.assert_close(found.gradient, exact(net, objective), rtol=0, atol=1e-6)
