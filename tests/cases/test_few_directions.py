"""An interval of a few random directions is Student's: it covers as often as it says."""

import pytest
import torch
from scipy.stats import t as student

from zopde import (
    InputError,
    rge,
    selfcheck,
)
from zopde.zo import Estimate

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Plane:
    """A black box that is linear: its gradient is known, and no difference is off."""

    def __init__(self, slope):
        self.slope, self.num_coordinates = slope, len(slope)

    def base(self):
        return torch.zeros((), dtype=DOUBLE)

    def directions(self, directions, mu):
        return mu * (directions.double() @ self.slope)


@pytest.mark.parametrize(("sampler", "slack"), [("rademacher", 0.0), ("gaussian", 0.03)])
@pytest.mark.parametrize("q", [2, 3, 5, 10])
def test_intervals_cover_as_often_as_they_say(q, sampler, slack):
    """Of 95 % intervals 95 % hold the truth; products of two normals are safer by up to 3 %."""
    slope = torch.randn(60, dtype=DOUBLE, generator=seeded(1))
    draw, oracle, shares = seeded(q), Plane(slope), []
    for _ in range(800):
        found = rge(oracle, q, 1e-3, draw, sampler)
        low, high = found.interval()
        shares.append(((low <= slope) & (slope <= high)).double().mean())
    covered, error = torch.stack(shares).mean(), torch.stack(shares).std() / 800**0.5
    assert 0.95 - 4 * error < covered < 0.95 + slack + 4 * error


@pytest.mark.parametrize("q", [2, 3, 5, 10])
def test_a_right_estimate_of_few_directions_is_not_doubted(q, quadratic):
    oracle = quadratic(d=40)
    exact = oracle.linear + oracle.hessian @ oracle.theta
    for seed in range(5):
        estimate = rge(oracle, q, 1e-5, seeded(seed), "rademacher", "central")
        found = selfcheck(oracle, 1e-6, seeded(), exact, estimate=estimate)
        assert found.warnings == ()
        assert 0.3 < found.layers[0].deviation < 1.7


def test_intervals_are_students():
    estimate = rge(Plane(torch.ones(8, dtype=DOUBLE)), 3, 1e-3, seeded())
    for confidence in (0.5, 0.9, 0.999):
        low, high = estimate.interval(confidence)
        far = student.ppf((1 + confidence) / 2, 2) * estimate.standard_error
        torch.testing.assert_close(high - estimate.gradient, far)
        torch.testing.assert_close(estimate.gradient - low, far)


def test_where_there_is_no_interval():
    lonely = rge(Plane(torch.ones(8, dtype=DOUBLE)), 1, 1e-3, seeded())
    for estimate in (lonely, Estimate(torch.zeros(2), 3)):
        with pytest.raises(InputError, match="estimate: got no standard error"):
            estimate.interval()
    with pytest.raises(InputError, match="confidence"):
        rge(Plane(torch.ones(8, dtype=DOUBLE)), 2, 1e-3, seeded()).interval(95)
