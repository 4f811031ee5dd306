"""Decisions whose error is bounded whenever they fall: exactly, by simulation, and to the bit."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtri
from scipy.stats import binom

from zopde import InputError, Smooth
from zopde.smoothing import fewest_answers, log_evidence, looks, lower_bound, thresholds, verdict


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def right_of_zero(x):
    """Class 1 where the pixel is positive: the smoothed radius is the pixel."""
    return (x[:, 0, 0, 0] > 0).long()


def at(distance):
    return torch.full((1, 1, 1), distance)


@pytest.mark.parametrize("threshold", [0.5, 0.84, 0.9987])
@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 0), (9, 16), (16, 16), (90, 100), (480, 500)]
)
def test_the_evidence_is_its_integral(successes, trials, threshold):
    """By quadrature of the likelihood ratio itself."""

    def ratio(q):
        failed = trials - successes
        return (q / threshold) ** successes * ((1 - q) / (1 - threshold)) ** failed

    top = min(max(successes / max(trials, 1), threshold), 1.0)
    area = quad(ratio, threshold, 1, points=[top], epsabs=0, epsrel=1e-10, limit=200)[0]
    found = math.exp(log_evidence(successes, trials, threshold))
    assert found == pytest.approx(area / (1 - threshold), rel=1e-8)


def bounds(threshold, alpha, most):
    """(look, largest "no", smallest "yes") by the verdict on every count."""
    for look in looks(most):
        said = [verdict(k, look, threshold, alpha) for k in range(look + 1)]
        yes, no = said.count("yes"), said.count("no")
        assert said == ["no"] * no + ["undecided"] * (look + 1 - yes - no) + ["yes"] * yes
        yield look, no - 1, look + 1 - yes


def outcome(p, threshold, alpha, most):
    """Exact probabilities of "yes" and "no", and the mean of the answers, if p is the truth."""
    left, asked, yes, no, mean = np.ones(1), 0, 0.0, 0.0, 0.0
    for look, below, above in bounds(threshold, alpha, most):
        mean += left.sum() * (look - asked)
        more = np.arange(look - asked + 1)
        left, asked = np.convolve(left, binom.pmf(more, look - asked, p)), look
        yes, no = yes + left[above:].sum(), no + left[: below + 1].sum()
        left[above:], left[: below + 1] = 0, 0
    return yes, no, mean


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("threshold", [0.5, 0.84, 0.977])
def test_both_errors_are_below_alpha_exact(threshold, alpha):
    """At the threshold itself, where they are largest, over every sequence of 1,500 votes."""
    yes, no, _ = outcome(threshold, threshold, alpha, 1500)
    assert 0 < yes <= alpha
    assert 0 < no <= alpha
    assert outcome(threshold - 0.02, threshold, alpha, 1500)[0] < yes
    assert outcome(threshold + 0.02, threshold, alpha, 1500)[1] < no


def test_a_clear_case_takes_few_answers():
    """And an unclear one all of them."""
    sure, near, below = (outcome(p, 0.84, 0.001, 1500) for p in (0.999, 0.85, 0.5))
    assert sure[0] > 0.9999
    assert below[1] > 0.9999
    assert max(sure[2], below[2]) < 100 < near[2]


def test_a_yes_holds_for_every_threshold_below():
    levels = [0.5, 0.6, 0.7, 0.8, 0.84, 0.9, 0.95, 0.977, 0.99]
    for look in looks(400):
        for k in range(look + 1):
            said = [verdict(k, look, level, 0.01) == "yes" for level in levels]
            assert said == sorted(said, reverse=True), (k, look)


def test_the_fewest_answers_are_the_first_that_decide():
    for threshold in (0.5, 0.84, 0.977):
        fewest = fewest_answers(threshold, 0.001)
        assert verdict(fewest, fewest, threshold, 0.001) == "yes"
        assert verdict(fewest - 1, fewest - 1, threshold, 0.001) == "undecided"
        assert lower_bound(fewest, fewest, 0.001) > threshold, "a fixed number needs no more"


def test_wrong_verdicts_of_a_known_classifier_are_few():
    """At its very radius; alpha bounds each of the two errors in 1,500 decisions."""
    smooth, alpha, count, draw = Smooth(right_of_zero, 2, 0.5), 0.1, 1500, generator()
    found = [smooth.decide(at(0.3), [0.3], 10, 200, alpha, draw) for _ in range(count)]
    for said in ("yes", "no"):
        wrong = sum(each.verdicts == (said,) for each in found)
        assert 0 < wrong <= binom.ppf(0.999, count, alpha)


def test_decisions_are_those_of_the_exact_radius():
    smooth, radii = Smooth(right_of_zero, 2, 0.5), [0.0, 0.25, 0.6]
    for distance, said, radius in ((0.5, "yes yes no", 0.25), (-0.9, "yes yes yes", 0.6)):
        found = smooth.decide(at(distance), radii, 50, 20_000, 0.001, generator())
        assert found.verdicts == tuple(said.split())
        assert (found.prediction, found.radius) == (int(distance > 0), radius)
    unclear = smooth.decide(at(0.0), [0.1], 50, 20_000, 0.001, generator())
    assert unclear[:2] == (-1, 0.0)
    assert unclear.verdicts == ("no",)
    undecided = smooth.decide(at(0.25), [0.25], 50, 300, 0.001, generator())
    assert undecided == (-1, 0.0, 350, ("undecided",))


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_batches_of_any_size_give_the_same_decision(batch):
    def seen_by(size, most):
        seen = []
        smooth = Smooth(lambda x: seen.append(x.clone()) or right_of_zero(x), 2, 0.5)
        found = smooth.decide(at(0.35), [0.2, 0.3], 20, most, 0.001, generator(), size)
        return found, torch.cat(seen)

    whole, noise = seen_by(256, 3000)
    assert "undecided" not in whole.verdicts
    found, same = seen_by(batch, 3000)
    assert found == whole
    assert torch.equal(same, noise)
    assert found.answers == len(noise), "the ledger counts what the classifier saw"
    fewer, first = seen_by(batch, 100)
    assert fewer.answers == 120
    assert torch.equal(noise[:120], first), "noise does not know how much may follow"


def test_radii_share_their_answers():
    """Each verdict is the one that its radius gets alone."""
    smooth = Smooth(right_of_zero, 2, 0.5)
    alone = [smooth.decide(at(0.4), [r], 20, 5000, 0.01, generator()) for r in (0.1, 0.35, 0.7)]
    found = smooth.decide(at(0.4), [0.1, 0.35, 0.7], 20, 5000, 0.01, generator())
    assert found.verdicts == tuple(each.verdicts[0] for each in alone)
    assert found.answers == max(each.answers for each in alone)


def test_thresholds_are_radii_in_deviations():
    assert thresholds([0.0, 0.5], 0.25, 0.001, 10_000) == pytest.approx([0.5, 0.9772499])
    assert 0.25 * ndtri(thresholds([0.3], 0.25, 0.001, 10_000)[0]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"radii": []}, "radii: got none"),
        ({"radii": [-0.1]}, "radius: got -0.1"),
        ({"radii": [math.nan]}, "radius: got nan"),
        ({"radii": [0.5, 2.0]}, "radius: got 2, for which .* are the fewest that decide"),
        ({"radii": [1e8]}, "more than 1e9 equal answers"),
        ({"alpha": 0.0}, "alpha"),
        ({"most": 0}, "expected a radius that 0 answers"),
        ({"n0": 0}, "n: got 0"),
        ({"batch": 0}, "batch"),
    ],
)
def test_what_cannot_be_decided_raises(change, said):
    plain = {"x": at(0.1), "radii": [0.1], "n0": 5, "most": 100, "alpha": 0.01}
    with pytest.raises(InputError, match=said):
        Smooth(right_of_zero, 2, 0.5).decide(**plain | {"generator": generator()} | change)


def test_counts_that_are_none_raises():
    for arguments in ((5, 4, 0.5), (-1, 4, 0.5), (1, 4, 0.0), (1, 4, 1.0)):
        with pytest.raises(InputError):
            log_evidence(*arguments)
