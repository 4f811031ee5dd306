"""What an estimator returns."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A gradient measured by queries.

    Args:
        gradient: (d,), the estimate; zero at coordinates that were not probed.
        loss: l(theta), where the scheme evaluated it.
        queries: Evaluations of the objective that it took, the base included.
        standard_error: (d,), where the estimator is random and can tell.
        failed: Probes whose loss is not finite; a base that is not counts as one.
        unknown: (d,), True where the estimate is zero because its probe failed; None
            where nothing did, or failures were to be kept.
        checking: Evaluations besides `queries`, with which the oracle verified its stacked
            probes; see `zopde.WeightOracle`.
    """

    gradient: Float[Tensor, " d"]
    queries: int
    loss: Float[Tensor, ""] | None = None
    standard_error: Float[Tensor, " d"] | None = None
    failed: int = 0
    unknown: Bool[Tensor, " d"] | None = None
    checking: int = 0
