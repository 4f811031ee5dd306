from functools import partial

import pytest
import torch
from torch import nn

from zopde import WeightOracle, cge
from zopde.contracts import ask_shared
from zopde.oracle import fused
from zopde.oracle.fused import ToPool


def chain(norm=None, pool=None, **conv):
    """A convolution, a norm with weights of both signs, a pool, and what reads them."""
    first = nn.Conv2d(3, 6, **{"kernel_size": 3, "padding": 1, **conv})
    norm = norm or nn.BatchNorm2d(6)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return nn.Sequential(
        first, norm, nn.ReLU(), pool or nn.MaxPool2d(2), nn.Conv2d(6, 2, 3), nn.Flatten()
    ).double()


def check_agrees(network, x):
    """Stacked probes against one at a time."""

    def objective(f, num_probes):
        return ask_shared(f, num_probes, x).view(num_probes, -1).square().mean(dim=1)

    fast = cge(WeightOracle(network, objective, chunk=16, verify=False), mu=1e-4).gradient
    slow = cge(WeightOracle(network, objective, stacked=False), mu=1e-4).gradient
    assert (fast - slow).norm() <= 1e-9 * slow.norm()


CHAINS = {
    "plain": chain,
    "eval": lambda: chain().eval(),
    "no weights": lambda: chain(nn.BatchNorm2d(6, affine=False)),
    "no running statistics": lambda: chain(nn.BatchNorm2d(6, track_running_stats=False)).eval(),
    "oblong windows": lambda: chain(pool=nn.MaxPool2d((2, 3))),
    "stride": lambda: chain(stride=(2, 1)),
    "dilation": lambda: chain(dilation=(1, 2), padding=(1, 2)),
    "around": lambda: chain(padding_mode="circular"),
    "groups": lambda: chain(groups=3),
    "no padding": lambda: chain(kernel_size=1, padding=0),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_pooled_channel_agrees(name, gen, monkeypatch):
    asked = []

    def watched(chain, base, change):
        found = start(chain, base, change)
        asked.extend(change.channels if found is not None else [])
        return found

    start = ToPool.start
    monkeypatch.setattr(ToPool, "start", watched)
    torch.manual_seed(1)
    network = CHAINS[name]()
    x = torch.randn(4, 3, 12, 12, generator=gen, dtype=torch.float64)

    check_agrees(network, x)
    assert len(asked) == sum(p.numel() for part in network[:2] for p in part.parameters())


def near_zero(weight):
    network = chain()
    nn.init.constant_(network[1].weight, weight)
    return network


def after_another_norm():
    first, norm, *others = chain(nn.BatchNorm2d(6, affine=False))
    return nn.Sequential(first, nn.GroupNorm(2, 6), norm, *others).double()


@pytest.mark.parametrize(
    "make", [*(partial(near_zero, weight) for weight in (0.0, 1e-3, -3e-5)), after_another_norm]
)
def test_norms_that_take_the_long_way_agree(make, gen):
    network = make()
    x = torch.randn(4, 3, 12, 12, generator=gen, dtype=torch.float64)

    check_agrees(network, x)


@pytest.mark.parametrize(
    "between",
    [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3), nn.AvgPool2d(2), nn.MaxPool2d(2, ceil_mode=True)],
)
def test_other_pools_take_the_long_way(between, gen, monkeypatch):
    monkeypatch.setattr(fused, "pooled", None)
    monkeypatch.setattr(fused, "added_to_pooled", None)
    network = chain(pool=between)
    x = torch.randn(4, 3, 11, 11, generator=gen, dtype=torch.float64)

    check_agrees(network, x)
