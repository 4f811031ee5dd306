"""Whatever network comes: its gradient is the plain loop's, or a warning says what is slow."""

import random

import pytest
import torch
from modules import MODULES, PLAIN, STACKED
from torch import nn

from zopde import SolverError, WeightOracle, cge, rge
from zopde.blackbox import CountedSolver
from zopde.contracts import CHECKING, ask_shared

MU, SEED = 1e-4, 7
WAYS = {"as it comes": {}, "in passes of 8": {"chunk": 8, "reuse": False}}


pytestmark = pytest.mark.usefixtures("double")


def made(name):
    """The same network at every call."""
    make, _, shape = MODULES[name]
    torch.manual_seed(1)
    network = make()
    x = torch.randint(7, shape) if name == "embedding" else torch.randn(shape)
    return network, x


def once(x):
    def objective(network, num_probes):
        y = network(x.repeat(num_probes, *[1] * (x.dim() - 1)))
        return y.reshape(num_probes, -1).sin().mean(dim=1)

    return objective


def unrolled(x):
    """The second call has states of each probe's own."""
    if not x.is_floating_point():
        return once(x)

    def objective(network, num_probes):
        y = ask_shared(network, num_probes, x).reshape(num_probes, -1)
        more = y.mean(dim=1).repeat_interleave(len(x)).view(-1, *[1] * (x.dim() - 1))
        z = network(x.repeat(num_probes, *[1] * (x.dim() - 1)) + more)
        return (y.sin() + z.reshape(num_probes, -1).cos()).mean(dim=1)

    return objective


@torch.no_grad()
def plain_loop(name, objective_of, indices):
    """Independent of zopde: a new network for every query, with the same random numbers."""

    def loss(index=None):
        network, x = made(name)
        if index is not None:
            for weight in (p for p in network.parameters() if p.requires_grad):
                if index < weight.numel():
                    weight.view(-1)[index] += MU
                    break
                index -= weight.numel()
        torch.manual_seed(SEED)
        return objective_of(x)(network, 1)[0].clone()

    base = loss()
    return torch.stack([(loss(int(i)) - base) / MU for i in indices])


def state_of(network):
    """Buffers and tensors, which and with which values, and plain attributes."""
    found = []
    for module in network.modules():
        tensors = {**dict(module.named_buffers(recurse=False))}
        if not isinstance(module, torch.jit.ScriptModule):
            tensors |= {n: v for n, v in vars(module).items() if type(v) is torch.Tensor}
            numbers = {n: v for n, v in vars(module).items() if isinstance(v, int | float)}
            found.append(numbers)
            found.append({n: id(v) for n, v in tensors.items()})
        found.append({n: v.tolist() for n, v in tensors.items()})
    return found


@pytest.mark.parametrize("make_objective", [once, unrolled])
@pytest.mark.parametrize("name", MODULES)
def test_agrees_with_a_plain_loop_or_says_what_is_slow(name, make_objective, caplog):
    network, x = made(name)
    before = state_of(network)
    total = sum(p.numel() for p in network.parameters() if p.requires_grad)
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(total, generator=generator)[:30]
    slow = plain_loop(name, make_objective, indices)
    for way, options in WAYS.items():
        caplog.clear()
        torch.manual_seed(SEED)
        oracle = WeightOracle(network, make_objective(x), **options)
        found = cge(oracle, indices, mu=MU)
        error = (found.gradient[indices] - slow).norm() / slow.norm()
        assert error < 1e-8, f"{way}: {error}"
        assert found.queries == len(indices) + 1
        if MODULES[name][1] == STACKED:
            assert not oracle.plain
        if MODULES[name][1] == PLAIN:
            assert oracle.plain
        assert (
            bool([r for r in caplog.records if "go one at a time" in r.message])
            == bool(oracle.plain)
            or "dead" in name
        )
        assert state_of(network) == before


@pytest.mark.parametrize("name", MODULES)
def test_directions_agree_with_the_plain_way(name):
    network, x = made(name)
    found = []
    for stacked in (True, False):
        torch.manual_seed(SEED)
        oracle = WeightOracle(network, once(x), stacked=stacked)
        found.append(rge(oracle, 5, MU, torch.Generator().manual_seed(2)).gradient)
    assert (found[0] - found[1]).norm() <= 1e-8 * found[1].norm()


def chained():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(3, 5)


def test_objectives_that_call_by_name_or_share_by_name():
    network, x = MODULES["keyword-only option"][0](), chained()[1]
    slow = WeightOracle(network, once(x), stacked=False)

    def by_name(f, num_probes):
        y = f(x=x.repeat(num_probes, 1), scale=1.5)
        return y.reshape(num_probes, -1).sin().mean(dim=1)

    def shared_by_name(f, num_probes):
        return ask_shared(f, num_probes, x=x).reshape(num_probes, -1).sin().mean(dim=1)

    expected = cge(slow, mu=MU).gradient
    for objective in (by_name, shared_by_name):
        oracle = WeightOracle(network, objective)
        torch.testing.assert_close(cge(oracle, mu=MU).gradient, expected, rtol=0, atol=1e-9)
        assert not oracle.plain
        along = rge(oracle, 4, MU, torch.Generator().manual_seed(0)).gradient
        plain = rge(slow, 4, MU, torch.Generator().manual_seed(0)).gradient
        torch.testing.assert_close(along, plain, rtol=0, atol=1e-9)


def test_a_number_in_a_tensor_is_no_state():
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 4)

        def forward(self, x, t):
            return torch.tanh(self.layer(x)) * t

    network, x, t = Timed(), chained()[1], torch.tensor(0.3)

    def objective(f, k):
        return f(x.repeat(k, 1), t).reshape(k, -1).sin().mean(dim=1)

    fast = WeightOracle(network, objective)
    slow = WeightOracle(network, objective, stacked=False)
    found, expected = cge(fast, mu=MU).gradient, cge(slow, mu=MU).gradient
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert not fast.plain


def test_an_objective_that_mixes_probes_is_asked_one_at_a_time(caplog):
    network, x = chained()

    def mixed(f, k):
        y = f(x.repeat(k, 1)).reshape(k, -1)
        return (y - 0.1 * y.mean()).square().mean(dim=1)

    found = cge(WeightOracle(network, mixed), mu=MU).gradient
    expected = cge(WeightOracle(network, mixed, stacked=False), mu=MU).gradient
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert "34 probes of a whole gradient go one at a time" in caplog.text


def test_layers_behind_zeros_are_verified():
    """At the weights themselves every probe but the last layer's answers 0 = 0."""

    class Coupled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 2)
            nn.init.zeros_(self.b.weight)

        def forward(self, x):
            y = self.a(x)
            return self.b(torch.tanh(y - y.mean(0)))

    network, x = Coupled(), chained()[1]
    oracle = WeightOracle(network, once(x))
    cge(oracle, mu=MU)
    assert {"a.weight"} <= oracle.plain
    with torch.no_grad():
        network.b.weight.add_(1.0)
    expected = cge(WeightOracle(network, once(x), stacked=False), mu=MU).gradient
    torch.testing.assert_close(cge(oracle, mu=MU).gradient, expected, rtol=0, atol=1e-9)


def test_it_verifies_once_and_again_when_structure_mode_or_shape_change():
    network, x = chained()
    network.insert(1, nn.BatchNorm1d(4))
    batch = {"x": x}

    def of_batch(f, k):
        return once(batch["x"])(f, k)

    oracle = WeightOracle(network, of_batch)

    def checking():
        oracle.at(2)  # at the third gradient nothing comes back by itself
        return cge(oracle, mu=MU).checking

    assert checking() > 0
    assert checking() == 0
    network.eval()
    assert checking() > 0
    assert checking() == 0
    batch["x"] = torch.cat([x, x])
    assert checking() > 0
    assert checking() == 0
    network[0].bias.requires_grad_(False)
    assert checking() > 0
    network[1] = nn.LayerNorm(4)
    assert checking() > 0
    assert checking() == 0
    assert cge(WeightOracle(network, once(x), verify=False), mu=MU).checking == 0


def test_verifying_leaves_streams_calls_and_numbers_alone():
    network, x = chained()
    calls = []

    def counted(f, k):
        calls.append((k, CHECKING.get()))
        return once(x)(f, k)

    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = cge(WeightOracle(network, counted, chunk=8), mu=MU)
    assert torch.equal(torch.get_rng_state(), before)
    own = [k for k, checking in calls if not checking]
    assert sum(own) == found.queries == 35
    assert sum(k for k, checking in calls if checking) == found.checking
    bare = cge(WeightOracle(network, once(x), chunk=8, verify=False), mu=MU)
    assert torch.equal(found.gradient, bare.gradient)


def test_solver_steps_of_the_comparison_are_nobodys():
    class Decay:
        grid = None

        def step(self, state, forcing=None):
            return 0.9 * state

    network, x = chained()
    counter = CountedSolver(Decay())

    def objective(f, k):
        return counter.step(f(x.repeat(k, 1))).reshape(k, -1).sin().mean(dim=1)

    found = cge(WeightOracle(network, objective), mu=MU)
    assert found.checking > 0
    assert counter.steps == len(x) * found.queries


def test_a_solver_that_diverges_on_the_copy_is_said_not_raised(caplog):
    network, x = chained()
    nn.init.zeros_(network[2].weight)

    def fragile(f, k):
        y = f(x.repeat(k, 1)).reshape(k, -1)
        if float((y - y.mean()).abs().max()) > 1.0:
            raise SolverError("too far")
        return y.sin().mean(dim=1)

    with torch.no_grad():
        network[2].bias.mul_(0.1)
    found = cge(WeightOracle(network, fragile), mu=MU).gradient
    expected = cge(WeightOracle(network, fragile, stacked=False), mu=MU).gradient
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_randomness_that_torch_does_not_know_is_said(caplog):
    network, x = chained()
    draw = random.Random(0)

    def noisy(f, k):
        return once(x)(f, k) + 0.01 * draw.random()

    cge(WeightOracle(network, noisy), mu=MU)
    assert "something is random" in caplog.text


def test_ctrl_c_in_a_comparison_is_not_swallowed():
    network, x = chained()

    def interrupted(f, k):
        if CHECKING.get():
            raise KeyboardInterrupt
        return once(x)(f, k)

    with pytest.raises(KeyboardInterrupt):
        cge(WeightOracle(network, interrupted), mu=MU)


def test_the_next_gradient_draws_anew_and_one_keeps_its_draw():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 2)), chained()[1]
    oracle = WeightOracle(network, once(x))
    first, second = cge(oracle, mu=MU), cge(oracle, mu=MU)
    assert not torch.equal(first.loss, second.loss)
    assert float(first.gradient.abs().max()) < 10
    draw = torch.default_generator
    some = rge(oracle, 6, MU, draw)
    assert not torch.equal(some.gradient, rge(oracle, 6, MU, draw).gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_warned_of_once(dtype, caplog):
    network, x = chained()
    network, x = network.to(dtype), x.to(dtype)
    oracle = WeightOracle(network, once(x))
    cge(oracle, mu=1e-3)
    cge(oracle, mu=1e-3)
    assert caplog.text.count("half precision: round-off moves a derivative by about") == 1


def test_float32_and_other_layouts_are_stacked():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3)).float()
    x = torch.randn(2, 6, 6, 3, dtype=torch.float32).permute(0, 3, 1, 2)
    for images in (x, x.contiguous(), x.contiguous(memory_format=torch.channels_last)):
        oracle = WeightOracle(network, once(images))
        found = cge(oracle, mu=1e-2).gradient
        expected = cge(WeightOracle(network, once(images), stacked=False), mu=1e-2).gradient
        assert not oracle.plain
        assert (found - expected).norm() <= 1e-3 * expected.norm()
