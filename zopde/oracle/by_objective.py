"""One oracle after the other, as the iterations of a training need them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, final

from torch import nn

from zopde.contracts import Objective
from zopde.oracle.weights import StandIn, WeightOracle


@final
class WeightOracles:
    """A weight oracle for every objective that a network meets, as an iteration needs it.

    The network is traced and verified once, not at every iteration, and again when its structure,
    its mode or the shapes of its input are others.

    Args:
        chunk: Probes per pass; see `WeightOracle`.
        verify: See `WeightOracle`.
        make: (network, objective, chunk) -> the oracle, where it is another than `WeightOracle`.
    """

    def __init__(
        self,
        chunk: int | None = None,
        verify: bool | StandIn = True,
        make: Callable[..., Any] | None = None,
    ) -> None:
        self._chunk, self._make = chunk, make or partial(WeightOracle, verify=verify)
        self._latest: Any = None

    def __call__(self, network: nn.Module, objective: Objective) -> Any:  # noqa: ANN401
        """The network's oracle under this objective; see `WeightOracle.under`."""
        if self._latest is None or not self._latest.is_of(network):
            self._latest = self._make(network, objective, chunk=self._chunk)
        self._latest = self._latest.under(objective)
        return self._latest
