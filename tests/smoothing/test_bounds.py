import pytest
import torch
from scipy.special import ndtri
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from zopde import InputError
from zopde.smoothing import (
    certified_accuracy,
    certified_radius,
    largest_radius,
    lower_bound,
    sign_test,
    upper_bound,
)

TRIALS = (1, 2, 10, 100, 1_000, 100_000)
ALPHAS = (1e-6, 0.001, 0.05, 0.4)


def some(trials):
    return sorted({0, 1, trials // 3, trials // 2, trials - 1, trials} & set(range(trials + 1)))


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_bounds_and_statsmodels_agrees(trials, alpha):
    for k in some(trials):
        low, high = proportion_confint(k, trials, alpha=2 * alpha, method="beta")
        assert lower_bound(k, trials, alpha) == pytest.approx(low, abs=1e-10)
        assert upper_bound(k, trials, alpha) == pytest.approx(high, abs=1e-10)


def test_the_bound_covers_known_probabilities(gen):
    """Below the truth in at least a share 1 - alpha of all experiments, and not by far more."""
    experiments, alpha = 20_000, 0.05
    for trials, p in ((50, 0.3), (200, 0.7), (1_000, 0.95), (1_000, 0.999)):
        draws = torch.distributions.Binomial(trials, torch.tensor(p, dtype=torch.float64))
        torch.manual_seed(trials)
        counts = draws.sample((experiments,)).long()
        bounds = {k: lower_bound(k, trials, alpha) for k in counts.unique().tolist()}
        missed = sum(bounds[k] > p for k in counts.tolist()) / experiments
        spread = (alpha * (1 - alpha) / experiments) ** 0.5
        assert missed <= alpha + 4 * spread, (trials, p)
        exact = sum(
            torch.exp(draws.log_prob(torch.tensor(float(k)))).item()
            for k in range(trials + 1)
            if lower_bound(k, trials, alpha) > p
        )
        assert missed == pytest.approx(exact, abs=4 * spread), (trials, p)


def test_the_sign_test_and_scipy_agrees():
    for first, second in ((1, 0), (5, 5), (7, 3), (3, 7), (60, 40), (501, 499), (99_000, 1_000)):
        expected = binomtest(first, first + second, 0.5).pvalue
        assert sign_test(first, second) == pytest.approx(expected, rel=1e-9), (first, second)
    assert sign_test(0, 0) == 1


def test_the_largest_radius_golden():
    """Cohen et al.'s n and alpha; by hand: n equal votes bound p by alpha^(1/n)."""
    for trials in (100, 100_000):
        by_hand = 0.25 * ndtri(0.001 ** (1 / trials))
        assert largest_radius(0.25, trials, 0.001) == pytest.approx(by_hand, rel=1e-9)
    assert largest_radius(1.0, 9, 0.001) == 0, "so few cannot certify anything"
    assert certified_radius(0.5, 0.5) == certified_radius(0.5, 0.1) == 0


def test_certified_accuracy_counts_abstentions_as_wrong_exact():
    radii = [0.0, 0.3, 0.5, 0.8]
    found = certified_accuracy(radii, [False, True, False, True], [0, 0.3, 0.31, 2.0])
    assert [each.share for each in found] == [0.5, 0.5, 0.25, 0.0]
    low, high = proportion_confint(2, 4, alpha=0.05, method="beta")
    assert (found[0].low, found[0].high) == pytest.approx((low, high), abs=1e-10)
    assert found[3].low == 0
    with pytest.raises(InputError, match="certificates"):
        certified_accuracy([], [], [0])


@pytest.mark.parametrize(
    ("wrong", "said"), [((-1, 5, 0.1), "success"), ((6, 5, 0.1), "success"), ((1, 5, 0), "alpha")]
)
def test_counts_that_cannot_be_raises(wrong, said):
    with pytest.raises(InputError, match=said):
        lower_bound(*wrong)
