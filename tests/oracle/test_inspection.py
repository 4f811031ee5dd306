"""Rows coupled in one unit, weights that act elsewhere, padding: found whatever is drawn."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from zopde import ExecutorOracle, InputError, WeightOracle, cge, rge
from zopde.contracts import CHECKING

sys.path.insert(0, str(Path(__file__).parent))
from networks import MeanSquare

MU, SEEDS = 1e-6, range(4)


pytestmark = pytest.mark.usefixtures("double")


class Two(nn.Module):
    """Two layers; `between` does to the values between them what a test wants."""

    def __init__(self, between=lambda h: h, width=16):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(8, width), nn.Linear(width, 2), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


def made(seed, make=Two, *args):
    torch.manual_seed(seed)
    return make(*args), torch.randn(6, 8)


def loss_on(*states, **options):
    def objective(f, k):
        repeated = [x.repeat(k, *[1] * (x.dim() - 1)) for x in states]
        return f(*repeated, **options).reshape(k, -1).square().mean(dim=1)

    return objective


def assert_exact(network, objective, *plain, **options):
    """The gradient is that of back-propagation, and only these parameters run one at a time."""
    oracle = WeightOracle(network, objective, **options)
    found = cge(oracle, mu=MU, scheme="central")
    network.zero_grad()
    objective(network, 1).sum().backward()
    exact = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert (found.gradient - exact).norm() <= 1e-7 * exact.norm()
    assert oracle.plain == {*plain}
    return found


def last_channel(h):
    return torch.eye(h.shape[1])[-1]


def kept_above(h):
    return h * (h >= h.flatten().topk(h.numel() // 4).values[-1])


COUPLED = {
    "largest": lambda h: h / h.abs().max(),
    "smallest": lambda h: h - h.min(),
    "mean of one channel": lambda h: h - last_channel(h) * h.mean(0),
    "rows counted in one channel": lambda h: h + last_channel(h) * len(h),
    "topk": kept_above,
    "first row into last": lambda h: torch.cat([h[:-1], h[-1:] + h[:1]]).tanh(),
    "next row": lambda h: h + last_channel(h) * h.roll(1, 0),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", COUPLED)
def test_rows_coupled_in_one_unit_are_asked_one_at_a_time_exact(name, seed, caplog):
    network, x = made(seed, Two, COUPLED[name])
    assert_exact(network, loss_on(x), "a.weight", "a.bias", "b.weight", "b.bias", chunk=32)
    assert "depends on what else is in the batch): 178 probes of a whole" in caplog.text


@pytest.mark.parametrize("chunk", [2, 64])
def test_probes_of_a_single_state_are_coupled_too_exact(chunk):
    network, x = made(0, Two, COUPLED["largest"])
    assert_exact(network, loss_on(x[:1]), "a.weight", "a.bias", "b.weight", "b.bias", chunk=chunk)


def test_a_coupling_that_reaches_no_answer_is_harmless():
    def noted(h):
        noted.mean = h.mean(0)
        return torch.tanh(h)

    network, x = made(0, Two, noted)
    assert_exact(network, loss_on(x))


class Several(nn.Module):
    """States, a time for each of them by keyword, and points without a batch axis."""

    def __init__(self, coupled):
        super().__init__()
        self.a, self.b, self.coupled = nn.Linear(8, 4), nn.Linear(5, 2), coupled

    def forward(self, x, points, *, time, scale=2.0):
        h = torch.tanh(self.a(x)) * points.mean() * scale
        return self.b(torch.cat([h, time / time.max() if self.coupled else time], dim=1))


@pytest.mark.parametrize("coupled", [True, False])
def test_keywords_and_tensors_without_a_batch_axis_exact(coupled):
    network, x = made(0, Several, coupled)
    points, time = torch.randn(12, 3), torch.rand(6, 1)

    def objective(f, k):
        y = f(x.repeat(k, 1), points, time=time.repeat(k, 1) * y_scale(f, k))
        return y.reshape(k, -1).square().mean(dim=1)

    def y_scale(f, k):
        return f(x.repeat(k, 1), points, time=time.repeat(k, 1)).mean(dim=1, keepdim=True).tanh()

    plain = [name for name, _ in network.named_parameters()] if coupled else []
    assert_exact(network, objective, *plain)


@pytest.mark.parametrize("coupled", [True, False])
def test_an_answer_of_several_tensors_exact(coupled):
    class Pair(Two):
        def forward(self, x, mask):
            h = torch.where(mask, self.a(x), 0.0)
            return self.b(torch.tanh(h)), h / h.abs().max() if coupled else h

    network, x = made(0, Pair)
    mask = torch.rand(6, 16) > 0.3

    def objective(f, k):
        y, h = f(x.repeat(k, 1), mask.repeat(k, 1))
        return y.reshape(k, -1).square().mean(dim=1) + h.reshape(k, -1).square().mean(dim=1)

    assert_exact(network, objective, *[n for n, _ in network.named_parameters() if coupled])


def test_words_and_batch_norm_stay_stacked():
    torch.manual_seed(0)
    parts = nn.Embedding(9, 4), nn.BatchNorm1d(5), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)
    network, x = nn.Sequential(*parts).float(), torch.randint(9, (6, 5))
    oracle = WeightOracle(network, loss_on(x))
    cge(oracle, mu=1e-3)
    assert not oracle.plain


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("coupled", [True, False])
def test_whole_numbers_stay_in_their_range_exact(coupled, seed):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.a, self.b = nn.Embedding(9, 4), nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x):
            assert int(x.min()) >= 3
            assert int(x.max()) <= 7
            h = self.a(self.words(x))
            return self.b(h / h.abs().max() if coupled else torch.tanh(h))

    network, _ = made(seed, Words)
    x = torch.randint(3, 8, (6, 5))
    plain = ["a.weight", "a.bias", "b.weight", "b.bias"] if coupled else []
    assert_exact(network, loss_on(x), *plain)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hook_that_reads_the_weight_of_another_layer_exact(seed, caplog):
    network, x = made(seed, lambda: nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2)))
    network[0].register_forward_pre_hook(lambda _, args: (args[0] * network[2].weight.sum(),))
    assert_exact(network, loss_on(x), "2.weight")
    assert "fail at 2.weight (it acts outside its layer, too): 10 probes" in caplog.text


@pytest.mark.parametrize("seed", SEEDS)
def test_one_entry_read_by_code_that_cannot_be_traced_exact(seed):
    class Reads(Two):
        def forward(self, x):
            return super().forward(x) * (self.a.bias[3] if x.sum() > -1e9 else 1.0)

    network, x = made(seed, Reads)
    assert_exact(network, loss_on(x), "a.bias")


def _first_feature(_, args):
    return (args[0] * torch.tensor([3.0] + 7 * [1.0]),)


@pytest.mark.parametrize("where", ["pre-hook", "hook", "hook of the whole", "own forward"])
def test_what_changes_one_feature_beside_a_layer_is_part_of_it_exact(where):
    network, x = made(0, Two, torch.tanh)
    plain = []
    if where == "pre-hook":
        network.a.register_forward_pre_hook(_first_feature)
    elif where == "hook":
        network.a.register_forward_hook(lambda _, __, y: y.square() * last_channel(y) + y)
    elif where == "hook of the whole":
        network.register_forward_pre_hook(_first_feature)
    else:
        network.a.forward = lambda x: nn.functional.linear(
            *_first_feature(0, (x,)), network.a.weight, network.a.bias
        )
        plain = ["a.weight", "a.bias"]
    oracle = WeightOracle(network, loss_on(x))
    found = cge(oracle, mu=MU, scheme="central").gradient
    assert not oracle.plain
    loss_on(x)(network, 1).sum().backward()
    exact = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert (found - exact).norm() <= 1e-7 * exact.norm()
    for name in plain:
        assert name not in oracle._stack.uses


def test_the_inspection_is_counted_and_leaves_no_trace():
    network, x = made(0)
    weights = [(p, p.data_ptr(), p.clone()) for p in network.parameters()]
    asked = []

    def counted(f, k):
        asked.append((k, CHECKING.get()))
        return loss_on(x)(f, k)

    before = torch.get_rng_state()
    found = cge(WeightOracle(network, counted, chunk=8), mu=MU)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(k for k, checking in asked if checking) == found.checking
    for parameter, place, value in weights:
        assert parameter.data_ptr() == place
        assert torch.equal(parameter, value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def padded(kind=nn.Embedding, **options):
    torch.manual_seed(0)
    words = kind(5, 2, padding_idx=0, **options)
    x = torch.tensor([[0, 1], [2, 0], [3, 4]])
    return words, lambda f, k: (f(x.repeat(k, 1)) - 1).reshape(k, -1).square().mean(dim=1)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_padding_has_no_gradient_and_no_query_exact(kind, stacked):
    words, objective = padded(kind)
    found = assert_exact(words, objective, stacked=stacked)
    assert found.queries == 2 * 8
    assert found.gradient[:2].tolist() == [0, 0]
    oracle = WeightOracle(words, objective, stacked=stacked)
    some = cge(oracle, torch.tensor([1, 2]), mu=MU)
    assert some.queries == 2
    assert some.gradient[2] == pytest.approx(float(words.weight.grad.view(-1)[2]), abs=1e-5)


def test_workers_get_no_probe_of_padding_exact():
    words, x = padded()[0], torch.tensor([[0, 1], [2, 0], [3, 4]])
    with ThreadPoolExecutor(2) as threads:
        found = cge(ExecutorOracle(words, MeanSquare(x), threads), mu=MU)
    MeanSquare(x)(words, 1).sum().backward()
    assert found.queries == 1 + 8
    torch.testing.assert_close(found.gradient, words.weight.grad.flatten(), rtol=0, atol=1e-5)


def test_directions_do_not_move_padding():
    words, objective = padded()
    found = rge(WeightOracle(words, objective), 4000, MU, torch.Generator().manual_seed(0))
    objective(words, 1).sum().backward()
    exact = words.weight.grad.flatten()
    assert found.gradient[:2].tolist() == [0, 0]
    assert (found.gradient - exact).norm() <= 0.1 * exact.norm()


def _tied():
    network = nn.Sequential(nn.Embedding(5, 2, padding_idx=0), nn.Linear(2, 5))
    network[1].weight = network[0].weight
    return network


REFUSED = {
    "max_norm": lambda: nn.Embedding(5, 2, max_norm=1.0),
    "padding_idx=0, in 2 layers": _tied,
    "a lazy layer that has no shape yet": lambda: nn.Sequential(nn.LazyLinear(2)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_weights_that_have_no_such_gradient_raises(words):
    with pytest.raises(InputError, match=words):
        WeightOracle(REFUSED[words](), loss_on(torch.tensor([1, 2])))


@pytest.mark.parametrize("stacked", [True, False])
def test_an_empty_batch_raises(stacked):
    network, x = made(0)
    oracle = WeightOracle(network, loss_on(x[:0]), stacked=stacked)
    words = r"network input: got no states: shape \(0, 8\), expected one state at least"
    with pytest.raises(InputError, match=words):
        cge(oracle, mu=MU)
    draw = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match=words):
        rge(oracle, 3, MU, draw)
