"""Whatever network comes: its gradient is the plain loop's, or a warning says what is slow."""

import logging
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from zopde import WeightOracle, cge, rge
from zopde.contracts import ask_shared

sys.path.insert(0, str(Path(__file__).parent))
from modules import MODULES, PLAIN, STACKED

MU, SEED = 1e-4, 7
WAYS = {"as it comes": {}, "in passes of 8": {"chunk": 8, "reuse": False}}


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


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
        torch.random.manual_seed(SEED)
        import random

        random.seed(SEED)
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
    import random

    network, x = made(name)
    before = state_of(network)
    total = sum(p.numel() for p in network.parameters() if p.requires_grad)
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(total, generator=generator)[:30]
    slow = plain_loop(name, make_objective, indices)
    for way, options in WAYS.items():
        caplog.clear()
        torch.manual_seed(SEED)
        random.seed(SEED)
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
