"""One channel's difference through a convolution, its norm and a pool, against one at a time."""

import pytest
import torch
from torch import nn

from zopde import WeightOracle, cge
from zopde.contracts import ask_shared
from zopde.oracle import fused


def crossed(norm=None, pool=None, **conv):
    """A layer, its probes one channel wide; a convolution, a norm of both signs, a pool."""
    second = nn.Conv2d(3, 6, **{"kernel_size": 3, "padding": 1, **conv})
    norm = norm or nn.BatchNorm2d(6)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    if norm.running_mean is not None:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    front = [nn.Conv2d(2, 3, 3, padding=1), nn.Tanh()]
    behind = [nn.ReLU(), pool or nn.MaxPool2d(2), nn.Conv2d(6, 2, 3), nn.Flatten()]
    return nn.Sequential(*front, second, norm, *behind).double()


def gradients(network, x, mu=1e-4):
    """By stacked probes, and one at a time."""

    def objective(f, num_probes):
        return ask_shared(f, num_probes, x).view(num_probes, -1).square().mean(dim=1)

    fast = cge(WeightOracle(network, objective, chunk=16, verify=False), mu=mu).gradient
    return fast, cge(WeightOracle(network, objective, stacked=False), mu=mu).gradient


@pytest.fixture
def crossings(monkeypatch):
    """How many probes crossed."""
    count = [0]

    class Watched(fused.Crossing):
        def __call__(self, probes, x):
            count[0] += len(probes.channels)
            return super().__call__(probes, x)

    monkeypatch.setattr(fused, "Crossing", Watched)
    return count


NETWORKS = {
    "plain": crossed,
    "eval": lambda: crossed().eval(),
    "no weights": lambda: crossed(nn.BatchNorm2d(6, affine=False)),
    "no running statistics": lambda: crossed(nn.BatchNorm2d(6, track_running_stats=False)).eval(),
    "oblong windows": lambda: crossed(pool=nn.MaxPool2d((2, 3))),
    "windows of one": lambda: crossed(pool=nn.MaxPool2d(1)),
    "stride": lambda: crossed(stride=(2, 1)),
    "dilation": lambda: crossed(dilation=(1, 2), padding=(1, 2)),
    "around": lambda: crossed(padding_mode="circular"),
    "same": lambda: crossed(padding="same"),
    "no padding": lambda: crossed(kernel_size=1, padding=0),
    "far": lambda: crossed(kernel_size=5, padding=2),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [4, 60])  # one piece; two, of which the last is smaller
def test_a_crossing_agrees(name, batch, gen, crossings):
    torch.manual_seed(1)
    network = NETWORKS[name]()
    x = torch.randn(batch, 2, 12, 12, generator=gen, dtype=torch.float64)

    fast, slow = gradients(network, x)
    assert (fast - slow).norm() <= 1e-9 * slow.norm()
    assert crossings[0] == sum(p.numel() for p in network[0].parameters())


def test_a_norm_of_weight_nought_agrees(gen, crossings):
    network = crossed()
    with torch.no_grad():
        network[3].weight[::2] = 0.0
    fast, slow = gradients(network, torch.randn(4, 2, 12, 12, generator=gen, dtype=torch.float64))
    assert (fast - slow).norm() <= 1e-9 * slow.norm()
    assert crossings[0]


class Twice(nn.Module):
    """The same convolution before and behind: it acts again on its own probes."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pool = (
            nn.Conv2d(3, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.MaxPool2d(2),
        )

    def forward(self, x):
        return self.pool(self.norm(self.conv(torch.tanh(self.conv(x))))).flatten(1)


def test_a_convolution_that_acts_twice_agrees(gen, crossings):
    x = torch.randn(4, 3, 8, 8, generator=gen, dtype=torch.float64)
    fast, slow = gradients(Twice().double(), x)
    assert (fast - slow).norm() <= 1e-9 * slow.norm()
    assert not crossings[0]


@pytest.mark.parametrize("network", [crossed(groups=3), crossed(pool=nn.MaxPool2d(3, 2, 1))])
def test_what_is_no_such_chain_takes_the_long_way(network, gen, crossings):
    x = torch.randn(4, 2, 12, 12, generator=gen, dtype=torch.float64)
    fast, slow = gradients(network, x)
    assert (fast - slow).norm() <= 1e-9 * slow.norm()
    assert not crossings[0]


def test_single_precision_is_as_good_as_one_at_a_time(gen, crossings):
    torch.manual_seed(0)
    network = crossed()
    x = torch.randn(60, 2, 12, 12, generator=gen, dtype=torch.float64)
    first = slice(0, sum(p.numel() for p in network[0].parameters()))  # those that cross
    _, exact = gradients(network, x, mu=1e-3)
    fast, slow = (found.double() for found in gradients(network.float(), x.float(), mu=1e-3))
    assert crossings[0]
    assert (fast - exact)[first].norm() <= 2 * (slow - exact)[first].norm()
