"""How much of a data set is certified, and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zopde.errors import InputError
from zopde.smoothing.bounds import lower_bound, upper_bound


@dataclass(frozen=True)
class CertifiedShare:
    """Certified accuracy at one radius.

    Args:
        radius: In the units of the input.
        share: Of the images: rightly classified with a certified radius of at least that.
        low: Lower end of its confidence band.
        high: Upper end.
    """

    radius: float
    share: float
    low: float
    high: float


def certified_accuracy(
    radii: Sequence[float], correct: Sequence[bool], at: Sequence[float], alpha: float = 0.05
) -> list[CertifiedShare]:
    """share(r) = #{i : correct_i and R_i >= r} / N, with Clopper and Pearson's band.

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
        raise InputError(
            "certificates", got=f"{total} radii, {len(correct)} answers", expected="as many, >= 1"
        )
    found = []
    for radius in at:
        held = sum(bool(c) and r >= radius for r, c in zip(radii, correct, strict=True))
        low, high = (bound(held, total, alpha / 2) for bound in (lower_bound, upper_bound))
        found.append(CertifiedShare(radius, held / total, low, high))
    return found
