"""Which pullback answers: one for each input of a step, one for each iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from zopde.contracts import State
from zopde.interface.vjp import Pullback, Step, Variable, Varied

PullbackAt = Callable[[int], Pullback]
"""Iteration -> pullback."""


@final
@dataclass(frozen=True)
class PullbackByVariable:
    """One pullback for the influence of the state, another for that of the forcing."""

    state: Pullback  # gives the product for the state
    forcing: Pullback  # gives the product for the forcing

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        pullback = self.state if step.variable == "state" else self.forcing
        return pullback(step, cotangent)


def by_variable(pullbacks: Mapping[Variable, Pullback]) -> Pullback:
    """One pullback from `pullbacks`, a way for each input: of the state alone, or of both."""
    state = pullbacks["state"]
    return PullbackByVariable(state, pullbacks["forcing"]) if "forcing" in pullbacks else state


def always(pullback: Pullback) -> PullbackAt:
    """The same pullback at every iteration."""
    return lambda _: pullback
