"""What an objective does with the network that it is given, and what it may not do."""

import copy

import pytest
import torch
from torch import nn

from zopde import InputError, SolverError, WeightOracle, cge, rge

MU = 1e-5


pytestmark = pytest.mark.usefixtures("double")


class Two(nn.Module):
    """Two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def states():
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(3))


def loss_on(x):
    return lambda f, k: f(x.repeat(k, 1)).reshape(k, -1).sin().mean(dim=1)


def plain(network, objective, indices=None):
    return cge(WeightOracle(network, objective, stacked=False), indices, mu=MU).gradient


def assert_right(found, network, objective):
    torch.testing.assert_close(found.gradient, plain(network, objective), rtol=0, atol=1e-8)


READS = {
    "parameters": lambda f: list(f.parameters()),
    "eval": lambda f: f.eval(),
    "training": lambda f: f.training,
    "state_dict": lambda f: f.state_dict(),
    "a": lambda f: f.a.weight,
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("stacked", [True, False])
def test_what_is_given_is_no_module(name, stacked):
    network, x = Two(), states()

    def objective(f, k):
        READS[name](f)
        return loss_on(x)(f, k)

    oracle = WeightOracle(network, objective, stacked=stacked)
    words = f"objective: got '{name}' read from what it is given as the network, expected calls"
    draw = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match=words):
        cge(oracle, mu=MU)
    with pytest.raises(InputError, match=words):
        rge(oracle, 4, MU, draw)


def test_an_objective_may_look_whether_it_is_given_a_module():
    network, x = Two(), states()

    def objective(f, k):
        assert not hasattr(f, "unknown")
        if hasattr(f, "parameters"):
            raise AssertionError("no module")
        return loss_on(x)(f, k)

    assert_right(cge(WeightOracle(network, objective), mu=MU), network, objective)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("which", ["itself", "a copy"])
def test_an_objective_that_calls_a_network_from_outside_is_refused(which, stacked):
    network, x = Two(), states()
    outside = network if which == "itself" else copy.deepcopy(network)
    oracle = WeightOracle(network, lambda _, k: loss_on(x)(outside, k), stacked=stacked)
    for estimate in (
        lambda: cge(oracle, mu=MU),
        lambda: rge(oracle, 4, MU, torch.Generator().manual_seed(0)),
    ):
        with pytest.raises(InputError, match="without a call of the network that it is given"):
            estimate()


@pytest.mark.parametrize("which", ["itself", "a copy"])
def test_losses_that_no_probe_moves_are_refused(which):
    network, x = Two(), states()
    outside = network if which == "itself" else copy.deepcopy(network)

    def objective(f, k):
        f(x.repeat(k, 1))
        return loss_on(x)(outside, k)

    with pytest.raises(InputError, match="losses that no probe of any layer moves"):
        cge(WeightOracle(network, objective), mu=MU)


def test_a_loss_in_steps_is_flat_not_refused():
    network, x = Two(), states()

    def objective(f, k):
        return (4 * f(x.repeat(k, 1)).reshape(k, -1).mean(dim=1)).round()

    found = cge(WeightOracle(network, objective), mu=MU)
    assert found.gradient.count_nonzero() == 0


def test_calling_the_network_besides_is_said(caplog):
    network, x = Two(), states()

    def objective(f, k):
        return loss_on(x)(f, k) + loss_on(x)(network, k)

    found = cge(WeightOracle(network, objective), mu=MU)
    assert "the objective calls the network itself, too" in caplog.text
    expected = plain(network, loss_on(x))
    torch.testing.assert_close(found.gradient, expected, rtol=0, atol=1e-8)
    assert not network._forward_pre_hooks


def test_an_objective_that_fails_before_it_calls_the_network_is_no_misuse():
    def failing(_, k):
        return torch.full((k,), torch.nan)

    found = cge(WeightOracle(Two(), failing), mu=MU, failed="drop")
    assert found.unknown.all()

    def broken(_, __):
        raise SolverError("no")

    with pytest.raises(SolverError, match="no"):
        cge(WeightOracle(Two(), broken), mu=MU)
