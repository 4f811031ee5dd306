import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from zopde.oracle.graph import trace
from zopde.oracle.one_channel import (
    batch_norm,
    channel_major,
    is_channel_major,
    max_pool,
    moments,
)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d((2, 3)), nn.MaxPool2d(4)])
@pytest.mark.parametrize("turned", [False, True])
def test_windows_apart_agrees(gen, pool, turned):
    x = torch.randn(3, 5, 12, 12, generator=gen)
    assert torch.equal(max_pool(pool, channel_major(x) if turned else x), pool(x))


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(5)],
)
def test_other_windows_are_torchs_own_agrees(gen, pool):
    x = torch.randn(3, 5, 11, 12, generator=gen)
    assert torch.equal(max_pool(pool, x), pool(x))


def test_statistics_agrees_far_from_zero(gen):
    """A mean of ten deviations must not cost the variance its digits."""
    x = channel_major(torch.randn(16, 3, 8, 8, generator=gen) + 10)
    mean, variance = moments(x.transpose(0, 1))
    exact = x.double().transpose(0, 1).flatten(1)
    assert torch.allclose(mean.double(), exact.mean(dim=1), rtol=1e-6)
    assert torch.allclose(variance.double(), exact.var(dim=1, correction=0), rtol=3e-5)


def test_batch_norm_agrees(gen):
    x = torch.randn(6, 4, 5, 5, generator=gen, dtype=torch.float64)
    weight, bias = torch.randn(2, 4, generator=gen, dtype=torch.float64)
    found = batch_norm(channel_major(x), weight, bias, 1e-5)
    assert is_channel_major(found)
    expected = F.batch_norm(x, None, None, weight, bias, training=True)
    assert torch.allclose(found, expected, atol=1e-12)


def test_moments_of_plain_rows_agrees(gen):
    x = torch.randn(3, 50, generator=gen, dtype=torch.float64)
    mean, variance = moments(x)
    assert torch.allclose(mean, x.mean(dim=1))
    assert torch.allclose(variance, x.var(dim=1, correction=0))


def test_pooling_comes_before_relu_agrees(gen):
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )
    graph = trace(network)
    order = [type(graph.get_submodule(n.target)).__name__ for n in list(graph.graph.nodes)[1:-1]]
    assert order == ["Conv2d", "MaxPool2d", "ReLU", "MaxPool2d", "ReLU"]
    x = torch.randn(4, 1, 8, 8, generator=gen)
    graph.recompile()
    assert torch.equal(graph(x), network(x))
