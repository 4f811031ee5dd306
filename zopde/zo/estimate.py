"""What an estimator returns."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from zopde.errors import InputError
from zopde.validate import check_share


@dataclass(frozen=True)
class Estimate:
    """Holds a gradient that queries measured."""

    gradient: Float[Tensor, " d"]  # (d,), the estimate; zero at coordinates that were not probed
    queries: int  # evaluations of the objective that it took, the base included
    loss: Float[Tensor, ""] | None = None  # l(theta), where the scheme evaluated it
    # (d,), where the estimator is random and can tell
    standard_error: Float[Tensor, " d"] | None = None
    failed: int = 0  # probes whose loss is not finite; a base that is not counts as one
    # (d,), True where the estimate is zero because its probe failed; None where nothing did, or
    # failures were to be kept
    unknown: Bool[Tensor, " d"] | None = None
    directions: int | None = None  # how many random directions the standard error was taken from
    # Evaluations besides `queries`, with which the oracle verified its stacked probes; see
    # `zopde.WeightOracle`
    checking: int = 0

    def interval(self, confidence: float = 0.95) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
        """Say between which two numbers each entry of the true gradient lies.

            gradient -+ t standard_error,   t Student's with `directions` - 1 degrees of freedom

        Few directions know little of their own spread: with two, t is 12.7 at 95 %, not 1.96.
        Each entry holds at about that confidence; below some 20 weights, where the terms
        are far from normal, at less. Raises `InputError` where there is no standard error.
        """
        from scipy.special import stdtrit  # half a second, which no worker should wait

        check_share("confidence", confidence)
        if self.standard_error is None or self.directions is None:
            raise InputError("estimate", got="no standard error", expected="two directions or more")
        far = self.standard_error * float(stdtrit(self.directions - 1, (1 + confidence) / 2))
        return self.gradient - far, self.gradient + far
