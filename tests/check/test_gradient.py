import json
from importlib import import_module
from itertools import pairwise

import pytest
import torch
from torch import nn

from zopde import InputError, SolverError, WeightOracle, cge, rge, selfcheck
from zopde.check.gradient import spread
from zopde.check.noise import measure_noise
from zopde.check.sweep import ladder, sweep_mu, taylor_rate
from zopde.oracle import relative_mu


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["single", "double"])
def problem(request):
    """A small network, its loss and its gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
        network.append(nn.Linear(5, 1))
        x, y = torch.randn(32, 4), torch.randn(32, 1)
    network, x, y = (thing.to(request.param) for thing in (network, x, y))

    def objective(f, num_probes):
        error = f(x.repeat(num_probes, 1)) - y.repeat(num_probes, 1)
        return error.view(num_probes, -1).square().mean(dim=1)

    slopes = torch.autograd.grad(objective(network, 1)[0], list(network.parameters()))
    return network, WeightOracle(network, objective), torch.cat([s.flatten() for s in slopes])


def test_agrees_with_autograd_and_restores(problem):
    network, oracle, exact = problem
    before = {k: v.clone() for k, v in network.state_dict().items()}
    found = selfcheck(oracle, 1e-3, seeded(), exact, network)
    assert found.against == "autograd"
    assert found.warnings == ()
    assert [layer.name for layer in found.layers] == [n for n, _ in network.named_parameters()]
    assert found.asked == found.total == 71
    for layer in found.layers:
        assert layer.cosine > 0.999
        assert abs(layer.norm_ratio - 1) < 0.1
        assert layer.taylor_rate is None
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_without_a_gradient_the_remainder_falls_with_the_square_order(problem):
    network, oracle, _ = problem
    found = selfcheck(oracle, 1e-3, seeded(), network=network)
    assert found.against == "extrapolation"
    assert found.warnings == ()
    assert found.asked == found.swept == 32
    assert all(layer.cosine > 0.999 for layer in found.layers)
    rates = [layer.taylor_rate for layer in found.layers if layer.taylor_rate is not None]
    assert len(rates) >= 4  # single precision: some layers are linear up to round-off
    assert all(1.7 < rate < 2.3 for rate in rates)


def test_recommended_mu_is_near_the_best_there_is(problem):
    """Round-off eps |l| / mu against mu H / 2: their sum is least near sqrt(eps)."""
    network, oracle, exact = problem
    eps = torch.finfo(exact.dtype).eps

    def error(mu):
        return float((cge(oracle, mu=mu).gradient - exact).norm() / exact.norm())

    for given in (exact, None):
        best = selfcheck(oracle, 1e-3, seeded(), given, network).recommended_mu
        assert eps**0.5 / 10 < best < 30 * eps**0.5
        assert error(best) < 3 * min(error(mu) for mu in ladder(exact.dtype))
        central = selfcheck(oracle, 1e-3, seeded(), given, network, "central").recommended_mu
        assert central > 3 * best


def test_a_wrong_gradient_is_seen(problem):
    network, oracle, exact = problem
    wrong = exact.clone()
    wrong[:24] *= -1
    found = selfcheck(oracle, 1e-3, seeded(), wrong, network)
    assert any(text.startswith("0.weight: cosine -") for text in found.warnings)
    assert not any("2.weight" in text for text in found.warnings)


class Twisted:
    """An oracle whose coordinate probes move a little too far."""

    def __init__(self, oracle):
        self._oracle = oracle
        self.num_coordinates, self.base = oracle.num_coordinates, oracle.base
        self.directions = oracle.directions

    def coordinates(self, indices, mu):
        return self._oracle.coordinates(indices, 1.2 * mu)


def test_wrong_probes_are_seen_without_a_gradient(problem):
    network, oracle, _ = problem
    found = selfcheck(Twisted(oracle), 1e-3, seeded(), network=network)
    assert any("Taylor remainder of order 1." in text for text in found.warnings)


def test_an_rge_is_judged_by_its_standard_error(problem):
    network, oracle, exact = problem
    right = rge(oracle, 300, 1e-3, seeded())
    found = selfcheck(oracle, 1e-3, seeded(), exact, network, estimate=right)
    assert found.warnings == ()
    assert all(0.2 < layer.deviation < 2 for layer in found.layers)
    wrong = type(right)(right.gradient + 1, right.queries, None, right.standard_error)
    found = selfcheck(oracle, 1e-3, seeded(), exact, network, estimate=wrong)
    assert any("standard errors" in text for text in found.warnings)


def test_mu_below_the_noise_warns(quadratic):
    oracle = quadratic(noise=1e-3)
    found = selfcheck(oracle, 1e-5, seeded(), oracle.gradient)
    assert any("below the noise floor" in text for text in found.warnings)
    assert any("not repeatable" in text for text in found.warnings)
    assert found.recommended_mu > found.noise.floor > 1e-5
    quiet = quadratic()
    assert selfcheck(quiet, 1e-5, seeded(), quiet.gradient).warnings == ()


def test_mu_below_round_off_warns(problem):
    network, oracle, exact = problem
    found = selfcheck(oracle, 1e-17, seeded(), exact, network)
    assert any("below the noise floor" in text for text in found.warnings)


@pytest.mark.parametrize("level", [1e-3, 1e-6])
def test_noise_is_measured(level, quadratic):
    oracle = quadratic(20, noise=level)
    indices, slopes = torch.arange(20), oracle.gradient
    found = [measure_noise(oracle, indices, slopes, 1e-5) for _ in range(20)]
    for name in ("repeated", "nearby"):
        mean = sum(getattr(noise, name) ** 2 for noise in found) / 20
        assert 0.7 * level < mean**0.5 < 1.4 * level


def test_noise_that_repeats_is_measured(quadratic):
    """A solver's tolerance: the same answer for the same theta, and still no smooth curve."""
    oracle = quadratic()
    smooth = oracle.losses
    oracle.losses = lambda moved: smooth(moved).mul(1e4).round().div(1e4)
    found = measure_noise(oracle, torch.arange(5), oracle.gradient, 1e-3)
    assert found.repeated == 0
    assert 1e-5 < found.nearby < 1e-4  # a rounded number is off by 1e-4 / sqrt(12)


def test_extrapolation_agrees_with_the_gradient(quadratic):
    oracle = quadratic()
    smooth = oracle.losses
    oracle.losses = lambda moved: smooth(moved).div(30).sin()
    exact = oracle.gradient / 30 * (smooth(oracle.theta[None])[0] / 30).cos()
    sweep = sweep_mu(oracle, torch.arange(5), ladder(torch.float64), torch.ones(5))
    torch.testing.assert_close(sweep.reference, exact, rtol=1e-8, atol=1e-9)
    assert sweep.best("central").central < 1e-8


def test_a_step_too_far_for_the_solver_is_a_bad_step(quadratic):
    oracle = quadratic()
    smooth = oracle.losses

    def losses(moved):
        if (moved - oracle.theta).abs().max() > 1e-4:
            raise SolverError("step: diverged")
        return smooth(moved)

    oracle.losses = losses
    found = selfcheck(oracle, 1e-5, seeded())
    assert found.recommended_mu < 1e-4
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["sweep"][-1]["forward"] is None


@pytest.mark.parametrize(("factor", "rate"), [(1.0, 2), (1.5, 1)])
def test_taylor_rate_order(factor, rate, quadratic):
    oracle = quadratic()
    v = torch.ones(5, dtype=torch.float64)
    slope = factor * float(oracle.gradient @ v)
    steps = [10.0 ** (k / 2) for k in range(-16, -4)]
    assert taylor_rate(oracle, v, slope, steps, 1e-14) == pytest.approx(rate, abs=0.1)


def test_a_linear_loss_has_no_remainder(quadratic):
    oracle = quadratic()
    oracle.hessian.zero_()
    found = selfcheck(oracle, 1e-3, seeded())
    assert found.warnings == ()
    assert found.layers[0].taylor_rate is None


def test_a_dead_layer_is_no_fault(gen):
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    nn.init.constant_(network[0].bias, -100.0)
    x = torch.randn(8, 3, generator=gen, dtype=torch.float64)
    oracle = WeightOracle(network, lambda f, p: f(x.repeat(p, 1)).view(p, -1).sin().mean(1))
    found = selfcheck(oracle, 1e-3, seeded(), network=network)
    assert [layer.cosine is None for layer in found.layers] == [True, True, True, False]
    assert found.warnings == ()
    assert "0.weight (6 of 6): no gradient" in str(found)


def test_relative_steps(problem):
    network, oracle, exact = problem
    scale = relative_mu(network)
    found = selfcheck(oracle, 1e-2, seeded(), exact, network, "central", scale)
    assert found.warnings == ()
    assert all(layer.cosine > 0.999 for layer in found.layers)


def test_queries_are_what_was_asked(quadratic):
    oracle = quadratic()
    assert selfcheck(oracle, 1e-3, seeded()).queries == oracle.asked
    oracle = quadratic()
    assert selfcheck(oracle, 1e-3, seeded(), oracle.gradient).queries == oracle.asked


def test_spread_gives_every_tensor_its_share():
    parameter = import_module("zopde.oracle.coordinates").ParameterSlice
    bounds = [0, 100, 102, 150, 151]
    slices = [parameter(str(i), a, b, (b - a,)) for i, (a, b) in enumerate(pairwise(bounds))]
    for count, shares in ((43, [20, 2, 20, 1]), (1, [1, 1, 1, 1]), (1000, [100, 2, 48, 1])):
        found = spread(slices, count, seeded())
        assert torch.equal(found, found.unique())
        cuts = torch.searchsorted(found, torch.tensor(bounds))
        assert cuts.diff().tolist() == shares


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mu": 0}, "mu: got 0"),
        ({"scheme": "backward"}, "scheme: got 'backward'"),
        ({"gradient": torch.ones(4)}, r"gradient: got shape \(4,\), expected \(5,\)"),
        ({"scale": torch.zeros(5)}, "scale: got 0.0 at coordinate 0"),
        ({"network": nn.Linear(3, 1)}, "network: got 4 weights, expected the 5"),
        ({"num_coordinates": 0}, "num_coordinates: got 0"),
        ({"num_swept": 0}, "num_swept: got 0"),
    ],
)
def test_raises(arguments, words, quadratic):
    with pytest.raises(InputError, match=words):
        selfcheck(quadratic(), **{"mu": 1e-3, "generator": seeded(), **arguments})


def test_losses_that_are_never_finite_raise(quadratic):
    oracle = quadratic()
    oracle.linear.fill_(torch.nan)
    with pytest.raises(InputError, match="no finite loss"):
        selfcheck(oracle, 1e-3, seeded())
