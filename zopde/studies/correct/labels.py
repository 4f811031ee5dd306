"""The compared ways of getting a corrector, and what sets each apart.

What a correction before the solver's step, or in its forcing, means for a run.

The loss is then reached through the solver alone. NON and NOG, which do not differentiate it,
have no gradient, so they cannot be trained, and nothing can start from NON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zopde.errors import InputError
from zopde.grid import Grid
from zopde.hybrid import INJECTIONS
from zopde.validate import check_choice


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


Tree = dict[str, Any]


def check_injection(inject: str, labels: Sequence[str], init: str) -> None:
    """Require labels that have a gradient, and a start that does.

    Args:
        inject: `corrector.inject`.
        labels: `run.labels`; unknown ones are not checked here.
        init: `training.init`.

    Raises:
        InputError: If the loss is reached through the solver alone, and one has not.
    """
    if not INJECTIONS[inject].through_solver:
        return
    without = [label for label in labels if not _trains(label)]
    if without:
        raise InputError(
            "run.labels",
            got=f"{', '.join(without)} with corrector.inject={inject!r}, where the loss is reached "
            "through the solver alone: they have no gradient",
            expected=f"some of {', '.join(label for label in WAYS if _trains(label))}",
        )
    if init == "non":
        raise InputError(
            "training.init",
            got=f"'non' with corrector.inject={inject!r}, where NON has no gradient",
            expected="'scratch'",
            remedy="--set training.init=scratch",
        )


def check_forcing(inject: str, grid: Grid) -> None:
    """Require a solver that has a forcing, where the network is to act on it."""
    if INJECTIONS[inject].adds_to == "forcing" and not grid.forcing_channels:
        raise InputError(
            "corrector.inject",
            got="'forcing' with a solver whose grid has no forcing channels",
            expected="'after' or 'before'",
        )


def fit_preset(preset: Tree, chosen: Mapping[str, Any]) -> Tree:
    """A preset's labels and start for the injection that is chosen over it.

    Labels without a gradient are left out, and so is the scratch start of a label that starts
    from scratch anyway. What a user chooses by name is not touched: `check_injection` refuses it.
    """
    corrector = chosen.get("corrector")
    inject = corrector.get("inject") if isinstance(corrector, Mapping) else None
    if inject not in INJECTIONS or not INJECTIONS[inject].through_solver:
        return preset
    labels = [
        label
        for label in preset["run"]["labels"]
        if _trains(label) and not WAYS[label].always_scratch
    ]
    run = {**preset["run"], "labels": labels}
    return {**preset, "run": run, "training": {**preset["training"], "init": "scratch"}}


def injection_note(inject: str) -> str:
    """What a user should know; empty where nothing is special."""
    if not INJECTIONS[inject].through_solver:
        return ""
    return (
        f"corrector.inject={inject!r}: the loss is reached through the solver alone, so NON and "
        "NOG have no gradient, and every label starts from scratch"
    )


def _trains(label: str) -> bool:
    return label not in WAYS or WAYS[label].through_solver
