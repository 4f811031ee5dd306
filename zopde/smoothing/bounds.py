"""What a count of votes says about a probability, exactly; how much of a data set is certified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import betainc, betaincinv, ndtri

from zopde.errors import InputError
from zopde.validate import check_count, check_positive


def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """Bound a probability from below, by how often of n times its event happened.

        p_lower = sup {p : P(Binomial(n, p) >= k) <= alpha}   (Clopper and Pearson, one-sided)

    That is the alpha quantile of Beta(k, n - k + 1), in [0, 1), and 0 for k = 0. Whatever the
    true probability is, it lies below the bound in at most a share alpha of all experiments.
    (Clopper and Pearson, Biometrika 26 (1934).)

    Args:
        successes: k, 0 ... n.
        trials: n >= 1.
        alpha: In (0, 1).

    Raises:
        InputError: If an argument is outside its range.

    Example:
        >>> round(lower_bound(100_000, 100_000, 0.001), 6)
        0.999931
    """
    _check(successes, trials, alpha)
    return float(betaincinv(successes, trials - successes + 1, alpha)) if successes else 0.0


def upper_bound(successes: int, trials: int, alpha: float) -> float:
    """Bound a probability from above: 1 - p_lower of the failures, in (0, 1].

    Arguments and errors are those of `lower_bound`.
    """
    _check(successes, trials, alpha)
    return 1 - lower_bound(trials - successes, trials, alpha)


def certified_radius(sigma: float, lower: float) -> float:
    """Compute the radius within which a smoothed classifier's answer cannot change.

        R = sigma Phi^-1(p_lower),   and 0 where p_lower <= 1/2

    No change of the input by less than R in the L2 norm changes the smoothed answer. (Cohen et
    al., ICML 2019, Theorem 1 with p_B = 1 - p_A.)

    Args:
        sigma: Standard deviation of the noise, in the units of the model's input, as R is; > 0.
        lower: Lower bound of the top class's probability, in [0, 1).

    Raises:
        InputError: If `sigma` is not positive.
    """
    check_positive("sigma", sigma)
    return sigma * float(ndtri(lower)) if lower > 0.5 else 0.0


def largest_radius(sigma: float, trials: int, alpha: float) -> float:
    """Compute the radius that n equal votes certify; no model gets a larger one from n votes.

        R_max = sigma Phi^-1(alpha^(1/n))

    Arguments and errors are those of `certified_radius` and `lower_bound`.

    Example:
        >>> [round(largest_radius(1.0, n, 0.001), 2) for n in (100, 1000, 10_000, 100_000)]
        [1.5, 2.46, 3.2, 3.81]
    """
    return certified_radius(sigma, lower_bound(trials, trials, alpha))


def sign_test(first: int, second: int) -> float:
    """Compute the p value, two-sided, of `first` against `second` votes if both are equally likely.

        p = min(1, 2 P(X >= max)),   X ~ Binomial(first + second, 1/2)

    (Hung and Fithian 2019, as used by Cohen et al., ICML 2019, algorithm PREDICT.)
    """
    most, least = max(first, second), min(first, second)
    return min(1.0, 2 * float(betainc(most, least + 1, 0.5))) if most else 1.0


def _check(successes: int, trials: int, alpha: float) -> None:
    check_count("trials", trials)
    check_alpha(alpha)
    if not 0 <= successes <= trials:
        raise InputError("successes", got=successes, expected=f"a whole number in [0, {trials}]")


def check_alpha(alpha: float) -> None:
    """Require 0 < alpha < 1."""
    if not (isinstance(alpha, int | float) and 0 < alpha < 1):
        raise InputError("alpha", got=alpha, expected="a number in (0, 1)", remedy="such as 0.001")


@dataclass(frozen=True)
class CertifiedShare:
    """Certified accuracy at one radius; see `certified_accuracy`."""

    radius: float  # in the units of the input
    share: float  # of the images, rightly classified with a certified radius of at least that
    low: float  # lower end of its confidence band
    high: float  # upper end


def certified_accuracy(
    radii: Sequence[float], correct: Sequence[bool], at: Sequence[float], alpha: float = 0.05
) -> list[CertifiedShare]:
    """Compute which share of the images is classified rightly, and certified within a radius.

        share(r) = #{i : correct_i and R_i >= r} / N,   with Clopper and Pearson's band

    An abstention is never correct. The band covers the share over the population that the images
    are a sample of, at each radius for itself, with probability >= 1 - alpha. It does not know of
    the alpha with which every certificate may be wrong.

    Args:
        radii: (image,), certified; 0 for an abstention.
        correct: (image,), whether the prediction is the label.
        at: Radii to look at.
        alpha: Of the band, in (0, 1).

    Raises:
        InputError: If there are no images, or the two differ in number.
    """
    total = len(radii)
    if not total or total != len(correct):
        got = f"{total} radii, {len(correct)} answers"
        raise InputError("certificates", got=got, expected="as many, >= 1")
    shares = []
    for radius in at:
        held = sum(bool(c) and r >= radius for r, c in zip(radii, correct, strict=True))
        low, high = (bound(held, total, alpha / 2) for bound in (lower_bound, upper_bound))
        shares.append(CertifiedShare(radius, held / total, low, high))
    return shares
