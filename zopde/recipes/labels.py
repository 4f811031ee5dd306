"""The compared ways of getting a corrector, and what sets each apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zopde.checks import check_choice
from zopde.errors import InputError


@dataclass(frozen=True)
class Way:
    """One row of the table.

    Args:
        gradient: "none" (nothing is trained), "backprop" or "zo".
        unrolled: False trains on one step of stored data.
        twin: Steps the differentiable twin instead of the black box.
        interface: Back-propagation passes the black box by queries of its states.
        always_scratch: Starts from scratch even where the others start from NON.
    """

    gradient: Literal["none", "backprop", "zo"]
    unrolled: bool = True
    twin: bool = False
    interface: bool = False
    always_scratch: bool = False

    @property
    def through_solver(self) -> bool:
        """Whether the gradient, if any, takes the solver's derivative into account."""
        return self.gradient != "backprop" or self.twin or self.interface


WAYS = {
    "SRC": Way("none", unrolled=False),
    "NON": Way("backprop", unrolled=False),
    "NOG": Way("backprop"),
    "ZO-weights": Way("zo"),
    "ZO-weights-scratch": Way("zo", always_scratch=True),
    "ZO-interface": Way("backprop", interface=True),
    "SOL": Way("backprop", twin=True),
}


def check_labels(labels: Sequence[str]) -> None:
    """Require known labels, each once, SRC among them (every other is compared with it)."""
    for label in labels:
        check_choice("run.labels", label, WAYS)
    if len(set(labels)) < len(labels) or "SRC" not in labels:
        raise InputError("run.labels", got=list(labels), expected="SRC and others, each once")
