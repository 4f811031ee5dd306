"""What begins after the first gradient, or hides from the network that an objective is given."""

import itertools
import random
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from zopde import WeightOracle, cge, rge, selfcheck
from zopde.contracts import CHECKING
from zopde.oracle import WeightOracles
from zopde.oracle.state import is_due
from zopde.studies.price import comparisons
from zopde.training import Optimise, ZerothOrder, fit

MU = 1e-5


pytestmark = pytest.mark.usefixtures("double")


class Two(nn.Module):
    """Two layers; `between` does to the first one's answer what a test wants."""

    def __init__(self, between=None):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(5, 4), nn.Linear(4, 2), between

    def forward(self, x):
        y = self.a(x)
        return self.b(torch.tanh(y if self.between is None else self.between(y)))


class Opaque(Two):
    """The same, but not to be traced: it branches on its data."""

    def forward(self, x):
        return super().forward(x) if float(x.detach().abs().sum()) >= 0 else x


def states():
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(3))


def loss_on(x):
    return lambda f, k: f(x.repeat(k, 1)).reshape(k, -1).sin().mean(dim=1)


def plain(network, objective, indices=None):
    return cge(WeightOracle(network, objective, stacked=False), indices, mu=MU).gradient


def assert_right(found, network, objective):
    torch.testing.assert_close(found.gradient, plain(network, objective), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", [Two, Opaque])
def test_a_coupling_that_a_flag_begins_is_seen(kind, caplog):
    flag = {"on": False}
    network = kind(lambda y: y - y.mean(0) if flag["on"] else y)
    objective = loss_on(states())
    oracle = WeightOracle(network, objective, chunk=16)
    for number in range(1, 10):
        flag["on"] = number >= 6
        found = cge(oracle, mu=MU)
        if kind is Two or number not in (6, 7):  # code that is traced is looked at every time
            assert_right(found, network, objective)
    assert "go one at a time" in caplog.text
    told = "it was right at gradient 4; gradients 5 to 7 may be wrong" in caplog.text
    assert told == (kind is Opaque)


def test_a_coupling_in_the_objective_is_seen_when_the_check_comes_back(caplog):
    calls = itertools.count()
    network, x = Two(), states()

    def objective(f, k):
        losses = loss_on(x)(f, k)
        late = not CHECKING.get() and next(calls) > 20
        objective.on |= late
        return losses - 0.5 * losses.mean() if objective.on else losses

    objective.on = False
    oracle = WeightOracle(network, objective, chunk=16)
    for _ in range(8):
        found = cge(oracle, mu=MU)
    assert objective.on
    assert_right(found, network, objective)
    assert "gradients 5 to 7 may be wrong" in caplog.text


def test_directions_are_verified_again_too(caplog):
    flag = {"on": False}
    network, x = Two(), states()

    def objective(f, k):
        losses = loss_on(x)(f, k)
        return losses - 0.5 * losses.mean() if flag["on"] else losses

    def along(oracle):
        return rge(oracle, 6, MU, torch.Generator().manual_seed(0))

    oracle = WeightOracle(network, objective)
    for number in range(1, 5):
        flag["on"] = number == 4
        found = along(oracle)
    expected = along(WeightOracle(network, objective, stacked=False)).gradient
    torch.testing.assert_close(found.gradient, expected, rtol=0, atol=1e-8)
    assert found.checking > 0
    assert "stacked probes fail at directions" in caplog.text


def test_a_schedule_that_the_code_reads_is_read_at_every_gradient():
    """A graph that was traced once would keep the first number."""
    schedule = [1.0]
    network, objective = Two(lambda y: schedule[0] * y), loss_on(states())
    oracles = WeightOracles(16)
    spent = 0
    for schedule[0] in (1.0, 0.5, 0.25):
        oracle = oracles(network, objective)
        found = cge(oracle, mu=MU)
        assert_right(found, network, objective)
        assert not oracle.plain
        spent = spent or found.checking
    assert oracle.checked.total() == spent  # other numbers are no reason to verify


def test_a_number_in_a_tensor_is_read_at_every_gradient_too():
    schedule = [1.0]
    network, objective = Two(lambda y: torch.tensor(schedule[0]) * y), loss_on(states())
    oracle = WeightOracle(network, objective, chunk=16)
    for schedule[0] in (1.0, 0.5):
        assert_right(cge(oracle, mu=MU), network, objective)


@pytest.mark.parametrize("chunk", [None, 8, 64])
def test_passes_are_verified_as_wide_as_they_are(chunk, caplog):
    """Rows couple where there are many of them."""
    network, objective = Two(lambda y: y - y.mean(0) if len(y) > 3 * 20 else y), loss_on(states())
    oracle = WeightOracle(network, objective, chunk=chunk, reuse=False)
    assert_right(cge(oracle, mu=MU), network, objective)
    if chunk:
        assert bool(oracle.plain) == (chunk > 20)


def test_wider_passes_than_were_verified_are_verified():
    network, objective = Two(lambda y: y - y.mean(0) if len(y) > 3 * 20 else y), loss_on(states())
    oracle = WeightOracle(network, objective, chunk=64, reuse=False)
    narrow = cge(oracle, torch.arange(8), mu=MU)
    expected = plain(network, objective, torch.arange(8))
    torch.testing.assert_close(narrow.gradient, expected, rtol=0, atol=1e-8)
    assert not oracle.plain
    found = cge(oracle, mu=MU)
    assert found.checking > 0
    assert oracle.plain
    assert_right(found, network, objective)


def test_wider_directions_than_were_verified_are_verified():
    network, objective = Two(), loss_on(states())

    def mixed(f, k):
        losses = objective(f, k)
        return losses - losses.mean() if k > 8 else losses

    def along(oracle, count):
        return rge(oracle, count, MU, torch.Generator().manual_seed(0))

    oracle = WeightOracle(network, mixed)
    along(oracle, 4)
    assert not oracle.plain
    expected = along(WeightOracle(network, mixed, stacked=False), 12).gradient
    torch.testing.assert_close(along(oracle, 12).gradient, expected, rtol=0, atol=1e-8)


def test_when_the_check_comes_back():
    due = [n for n in range(1, 300) if is_due(n)]
    assert due == [4, 8, 16, 32, 64, 128, 192, 256]
    assert [comparisons(n) for n in (1, 3, 4, 100)] == [1, 1, 2, 6]
    oracle = WeightOracle(Two(), loss_on(states()), chunk=16)
    spent = [cge(oracle, mu=MU).checking for _ in range(9)]
    assert [n + 1 for n, queries in enumerate(spent) if queries] == [1, 4, 8]
    assert sum(spent) == oracle.checked.total()


class Every:
    """All coordinates at every iteration."""

    def __init__(self, count):
        self.active = torch.ones(count, dtype=torch.bool)

    def mask(self, _):
        return self.active


@pytest.mark.parametrize("killed_at", [3, 4, 6, 7, 8])
def test_a_resumed_training_verifies_at_the_same_iterations(tmp_path, killed_at):
    class KilledError(Exception):
        pass

    def run(folder, kill=None):
        torch.manual_seed(0)
        network, x = Two(), states()
        short = x[:2]  # the second kind of batch comes when the check is due
        source = ZerothOrder(Every(34), MU, "forward", WeightOracles(16))

        def gradient(net, objective, iteration):
            if iteration == kill:
                raise KilledError
            return source(net, objective, iteration)

        def objective_at(iteration):
            return loss_on(short if iteration in (7, 9) else x)

        cost = fit(network, objective_at, gradient, Optimise(), 12, folder, every_seconds=0.0)
        return torch.cat([p.detach().flatten() for p in network.parameters()]), cost

    whole, cost = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "parts", killed_at)
    resumed, resumed_cost = run(tmp_path / "parts")
    assert torch.equal(whole, resumed)
    assert resumed_cost.checking == cost.checking
    assert set(cost.checked) >= {"gradient 4", "gradient 8"}


class Keeps(Two):
    """A layer that keeps something, changes it in its forward, and lets it act."""

    def __init__(self, kept, step):
        super().__init__()
        self.kept, self.step = kept, step

    def forward(self, x):
        return super().forward(x) + self.step(self.kept)


def add_first(kept):
    kept[0] += 1
    return float(kept[0])


def add_inside(kept):
    kept["inner"][0].add_(1)
    kept["calls"] = kept.get("calls", 0) + 1
    return float(kept["inner"][0]) + kept["calls"]


def grow(kept):
    kept.add(len(kept))
    return len(kept)


def append_inside(kept):
    kept[0].append(1)
    return len(kept[0])


KEPT = {
    "list": (lambda: [0], add_first),
    "list of tensors": (lambda: [torch.zeros(())], add_first),
    "deque": (lambda: deque([0]), add_first),
    "dictionary": (lambda: {"inner": [torch.zeros(())]}, add_inside),
    "list in a tuple": (lambda: ([],), append_inside),
    "set": (set, grow),
    "array": (lambda: np.zeros(1), add_first),
    "count": (lambda: itertools.count(3), next),
    "random": (lambda: random.Random(0), random.Random.random),
    "NumPy's generator": (lambda: np.random.default_rng(0), np.random.Generator.random),
    "torch's generator": (
        lambda: torch.Generator().manual_seed(0),
        lambda kept: torch.rand((), generator=kept),
    ),
}


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("stacked", [True, False])
def test_what_a_forward_keeps_is_put_back_after_every_query(name, stacked):
    make, step = KEPT[name]
    network, x, offset = Keeps(make(), step), states(), float(step(make()))
    inside = network.kept
    still = Two()
    still.load_state_dict(network.state_dict())
    found = cge(WeightOracle(network, loss_on(x), stacked=stacked), mu=MU)

    def shifted(f, k):
        return (f(x.repeat(k, 1)) + offset).reshape(k, -1).sin().mean(dim=1)

    assert_right(found, still, shifted)
    assert network.kept is inside
    assert float(step(network.kept)) == offset


def test_a_generator_that_draws_for_every_state_is_the_same_at_all_probes():
    class Noisy(Two):
        def __init__(self):
            super().__init__()
            self.draw = torch.Generator().manual_seed(4)

        def forward(self, x):
            return super().forward(x + torch.randn(x.shape, generator=self.draw))

    network, x = Noisy(), states()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    found = cge(WeightOracle(network, loss_on(x)), mu=MU).gradient
    loss = super(Noisy, network).forward(x + noise).sin().mean()
    exact = torch.autograd.grad(loss, [*network.parameters()])
    exact = torch.cat([slope.flatten() for slope in exact])
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
@pytest.mark.parametrize("estimate", ["cge", "rge"])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_sparse_buffer_is_right(layout, estimate):
    class Graph(Two):
        def __init__(self):
            super().__init__()
            links = torch.eye(4) + torch.diag(torch.ones(3), 1)
            self.register_buffer("links", getattr(links, layout)())
            self.between = lambda y: (self.links @ y.T).T

    def gradient(oracle):
        draw = torch.Generator().manual_seed(0)
        found = cge(oracle, mu=MU) if estimate == "cge" else rge(oracle, 5, MU, draw)
        return found.gradient

    network, objective = Graph(), loss_on(states())
    found = gradient(WeightOracle(network, objective))
    expected = gradient(WeightOracle(network, objective, stacked=False))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    dense = Two(lambda y: (network.links.to_dense() @ y.T).T)
    dense.load_state_dict({n: v for n, v in network.state_dict().items() if n != "links"})
    same = gradient(WeightOracle(dense, objective, stacked=False))
    torch.testing.assert_close(found, same, rtol=0, atol=1e-8)


def exact(network, objective):
    loss = objective(network, 1)[0]
    slopes = torch.autograd.grad(loss, [*network.parameters()])
    return torch.cat([slope.flatten() for slope in slopes])


@pytest.mark.parametrize("against", ["autograd", "extrapolation"])
def test_selfcheck_of_dropout_has_one_draw(against):
    network = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2))
    objective = loss_on(states())
    torch.manual_seed(5)
    gradient = exact(network, objective) if against == "autograd" else None
    torch.manual_seed(5)
    draw = torch.Generator().manual_seed(0)
    found = selfcheck(WeightOracle(network, objective), 1e-5, draw, gradient, network)
    assert found.warnings == ()
    assert found.noise.repeated == 0
    for layer in found.layers:
        assert layer.cosine == pytest.approx(1, abs=1e-6)
        assert layer.norm_ratio == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("against", ["autograd", "extrapolation"])
@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_selfcheck_does_not_doubt_a_gradient_of_zero(dtype, against, scheme):
    """A bias before BatchNorm does nothing."""
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    network, objective = network.to(dtype), loss_on(torch.randn(6, 5, dtype=dtype))
    gradient = exact(network, objective) if against == "autograd" else None
    oracle, draw = WeightOracle(network, objective), torch.Generator().manual_seed(0)
    mu = 1e-6 if dtype == torch.float64 else 1e-3
    found = selfcheck(oracle, mu, draw, gradient, network, scheme)
    assert found.warnings == ()
    bias = found.layers[1]
    assert (bias.name, bias.cosine, bias.norm_ratio) == ("0.bias", None, None)


def test_selfcheck_doubts_a_gradient_where_there_is_none():
    network, objective = Two(), loss_on(states())
    gradient = exact(network, objective)
    gradient[:20] = 0
    draw = torch.Generator().manual_seed(0)
    found = selfcheck(WeightOracle(network, objective), 1e-6, draw, gradient, network)
    assert "a.weight: norm ratio inf, expected 1" in found.warnings
