"""Whether a probability lies above a threshold, decided while the votes come in."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Literal

from scipy.special import betainc, betaln, ndtr

from zopde.errors import InputError
from zopde.smoothing.bounds import check_alpha
from zopde.validate import check_count, check_not_negative

Verdict = Literal["yes", "no", "undecided"]
"""Whether an answer holds within a radius: "yes" certifies it, "no" and "undecided" do not."""
_FIRST = 16  # answers before the first look
_MOST = 10**9  # answers; nobody asks for more


def log_evidence(successes: int, trials: int, threshold: float) -> float:
    """Say how strongly votes speak for a probability above a threshold: the logarithm of a wealth.

        M = 1/(1 - p0) integral over q from p0 to 1 of (q/p0)^k ((1 - q)/(1 - p0))^(n - k)

    That is the likelihood ratio against p0, with every probability above it equally likely: what
    a gambler has, who began with 1 and bet on each vote in turn. As long as the true probability is
    p0 or less, no bet pays on average, so that M ever reaches 1/alpha with a probability of at most
    alpha, however often one looks. (Robbins' mixtures, Ann. Math. Statist. 41 (1970); Ville's
    inequality.) For a probability below a threshold, count the failures against 1 - p0.

    Args:
        successes: k, 0 ... n.
        trials: n >= 0.
        threshold: p0, in (0, 1).

    Returns:
        log M: 0 without votes, and -inf where the votes are so clear that M underflows.

    Raises:
        InputError: If an argument is outside its range.

    Example:
        >>> round(math.exp(log_evidence(60, 60, 0.84)))
        3579
    """
    if not 0 <= successes <= trials:
        raise InputError("successes", got=successes, expected=f"a whole number in [0, {trials}]")
    if not 0 < threshold < 1:
        raise InputError("threshold", got=threshold, expected="a number in (0, 1)")
    hits, misses = successes + 1, trials - successes + 1
    # The integral is an incomplete beta function. Where it underflows every q above the threshold
    # is far less likely than the threshold is, and M is as good as nothing.
    above = float(betainc(misses, hits, 1 - threshold))
    if not above:
        return -math.inf
    whole = float(betaln(hits, misses)) + math.log(above)
    return whole - successes * math.log(threshold) - misses * math.log1p(-threshold)


def verdict(successes: int, trials: int, threshold: float, alpha: float) -> Verdict:
    """Decide whether a probability is above a threshold, or below, or ask for more votes.

    "yes" where the evidence for "above" reaches 1/alpha, "no" where that for "below" does. Each is
    ever said wrongly with a probability of at most alpha, whenever one looks and stops.

    Arguments and errors are those of `log_evidence` and `lower_bound`.
    """
    check_alpha(alpha)
    enough = -math.log(alpha)
    if log_evidence(successes, trials, threshold) >= enough:
        return "yes"
    against = log_evidence(trials - successes, trials, 1 - threshold)
    return "no" if against >= enough else "undecided"


def fewest_answers(threshold: float, alpha: float) -> int:
    """Find how many equal votes make the first "yes"; 1e9 + 1 where 1e9 do not.

    Arguments and errors are those of `verdict`.

    Example:
        >>> [fewest_answers(p, 0.001) for p in (0.5, 0.84, 0.977, 0.9987)]
        [13, 52, 392, 7009]
    """
    check_alpha(alpha)
    votes = range(1, _MOST + 1)
    return 1 + bisect_left(votes, -math.log(alpha), key=lambda n: log_evidence(n, n, threshold))


def looks(most: int) -> Iterator[int]:
    """List the counts of answers after which a decision is tried: up to `most`, >= 1.

    16 at first and then a quarter more each time, whatever fits in a batch, so that the same
    answers always give the same verdict.

    Example:
        >>> [*looks(120)]
        [16, 32, 48, 64, 80, 100, 120]
    """
    check_count("most", most)
    asked = 0
    while asked < most:
        asked = min(asked + max(_FIRST, asked // 4), most)
        yield asked


def thresholds(radii: Sequence[float], sigma: float, alpha: float, most: int) -> list[float]:
    """Convert radii to the probabilities that the top class must have there.

        p0 = Phi(R / sigma)

    Args:
        radii: R, some, each >= 0, in the units of the input.
        sigma: Standard deviation of the noise, in the same units; > 0.
        alpha: Of the decision, in (0, 1).
        most: Answers that may be asked, >= 1.

    Raises:
        InputError: If an argument is outside its range, or a radius is so large that `most` equal
            answers could not certify it.
    """
    if not radii:
        raise InputError("radii", got="none", expected="at least one")
    return [_threshold(radius, sigma, alpha, most) for radius in radii]


def _threshold(radius: float, sigma: float, alpha: float, most: int) -> float:
    check_not_negative("radius", radius)
    threshold = min(float(ndtr(radius / sigma)), math.nextafter(1, 0))
    fewest = fewest_answers(threshold, alpha)
    if fewest > most:
        count = f"{fewest:,}" if fewest <= _MOST else "more than 1e9"
        got = f"{radius:g}, for which {count} equal answers are the fewest that decide"
        expected = f"a radius that {most:,} answers can certify with sigma {sigma:g}"
        raise InputError("radius", got=got, expected=expected, remedy="raise n, or look nearer")
    return threshold
