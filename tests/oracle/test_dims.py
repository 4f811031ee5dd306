"""The weight cut on correctors of one, two and three dimensions."""

import logging

import pytest
import torch

from zopde import ConvCorrector, Normalised, ResidualCorrector, WeightOracle, cge
from zopde.contracts import ask_shared

SHAPES = {1: (9,), 2: (6, 7), 3: (4, 5, 6)}
MIXED = {1: "zero", 2: ("zero", "periodic"), 3: ("periodic", "zero", "periodic")}


def drawn(network, gen):
    network = network.double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=gen)
    return network


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", [ConvCorrector, ResidualCorrector])
@pytest.mark.parametrize("mixed", [False, True])
def test_stacked_probes_agree_with_the_loop_and_autograd(kind, dims, mixed, gen, caplog):
    """All weights share passes: none is probed one at a time, and no fall-back is told."""
    padding = MIXED[dims] if mixed else "periodic"
    body = kind(2, 1, 3, 1, 3, padding, dims=dims)
    network = drawn(Normalised(body, torch.tensor([0.7]), torch.tensor([1.3]), dims), gen)
    x = torch.randn(2, 2, *SHAPES[dims], generator=gen, dtype=torch.float64)

    def objective(f, num_probes):
        y = ask_shared(f, num_probes, x[:, :1], x[:, 1:])
        return y.view(num_probes, -1).square().mean(dim=1)

    with caplog.at_level(logging.DEBUG, "zopde"):
        fast = cge(WeightOracle(network, objective, 16), mu=1e-5, scheme="central").gradient
    assert not [line for line in caplog.messages if "one at a time" in line]
    slow = WeightOracle(network, objective, stacked=False)
    slow = cge(slow, mu=1e-5, scheme="central").gradient
    objective(network, 1)[0].backward()
    exact = torch.cat([p.grad.flatten() for p in network.parameters()])
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(fast, exact, rtol=1e-5, atol=1e-7)
