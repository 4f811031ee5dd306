"""The compared ways of getting a corrector, and what sets each apart.

With a correction before the solver's step, or in its forcing, the loss is reached through the
solver alone. NON, NOG and PUSH, which do not differentiate it, have no gradient then: they cannot
be trained, and nothing can start from NON. ID, which takes the derivative for the identity, can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from zopde.contracts import Domain
from zopde.errors import InputError
from zopde.hybrid import INJECTIONS
from zopde.validate import check_choice


@dataclass(frozen=True)
class Label:
    """One row of the table."""

    # "none" (nothing is trained), "backprop", "zo" or "es" (queries of the loss), "forward" (slopes
    # along random directions), or, without a gradient, "eki" or "etki"
    gradient: Literal["none", "backprop", "zo", "es", "forward", "eki", "etki"]
    unrolled: bool = True  # false trains on one step of stored data
    twin: bool = False  # steps the differentiable twin instead of the black box
    # How the black box is passed by back-propagation: "" (not at all), a way of the interface cut,
    # or "as set", by `interface.way`
    way: Literal[
        "",
        "as set",
        "identity",
        "coloured",
        "regressed",
        "dense",
        "bank",
        "random",
        "tangent",
        "emulator",
    ] = ""
    pushed: bool = False  # judges the last step of its own windows alone; see `PushSettings`
    always_scratch: bool = False  # starts from scratch even where the others start from NON

    @property
    def trained(self) -> bool:
        """Whether there is anything to train."""
        return self.gradient != "none"

    @property
    def by_residuals(self) -> bool:
        """Whether an ensemble of networks is moved by their residuals."""
        return self.gradient in ("eki", "etki")

    @property
    def back_propagates_windows(self) -> bool:
        """Whether it differentiates the loss of an unroll; NON and PUSH have their own."""
        return self.gradient in ("backprop", "forward") and self.unrolled and not self.pushed

    @property
    def estimates(self) -> bool:
        """Whether its gradient stands for that of an unroll's loss, and may be off.

        Not so those of NON and PUSH, exact ones of another loss, nor SOL's, the exact one. EKI and
        ETKI have none.
        """
        return self.gradient in ("zo", "es") or (self.back_propagates_windows and self != _EXACT)

    @property
    def through_solver(self) -> bool:
        """Whether the gradient, if any, takes the solver's derivative into account."""
        return self.gradient != "backprop" or self.twin or bool(self.way)


_EXACT = Label("backprop", twin=True)
LABELS = {
    "SRC": Label("none", unrolled=False),
    "NON": Label("backprop", unrolled=False),
    "NOG": Label("backprop"),
    "PUSH": Label("backprop", pushed=True),
    "ID": Label("backprop", way="identity"),
    "EMU": Label("backprop", way="emulator"),
    "CV": Label("backprop", way="random"),
    "ZO-weights": Label("zo"),
    "ZO-weights-scratch": Label("zo", always_scratch=True),
    "ZO-interface": Label("backprop", way="as set"),
    "ZO-coloured": Label("backprop", way="coloured"),
    "ZO-regressed": Label("backprop", way="regressed"),
    "ZO-dense": Label("backprop", way="dense"),
    "ZO-bank": Label("backprop", way="bank"),
    "ZO-tangent": Label("backprop", way="tangent"),
    "ZO-random": Label("backprop", way="random"),
    "ES": Label("es"),
    "EKI": Label("eki"),
    "ETKI": Label("etki"),
    "FG": Label("forward", twin=True),
    "SOL": _EXACT,
}
"""Row of the table of results -> what sets it apart from the others."""


def check_labels(labels: Sequence[str]) -> None:
    """Require known labels, each once, SRC among them (every other is compared with it)."""
    for label in labels:
        check_choice("run.labels", label, LABELS)
    if len(set(labels)) < len(labels) or "SRC" not in labels:
        raise InputError("run.labels", got=list(labels), expected="SRC and others, each once")


def check_squares(loss: str, labels: Sequence[str]) -> None:
    """Require the squared loss where a label needs the residuals that it is the mean square of."""
    able = [label for label in labels if not LABELS[label].by_residuals]
    if loss != "squares" and len(able) < len(labels):
        without = ", ".join(label for label in labels if label not in able)
        raise InputError(
            "training.loss",
            got=f"{loss!r} with {without}, which needs residuals and not their judgement",
            expected="'squares'",
            remedy=f"leave {without} out of run.labels",
        )


def check_injection(inject: str, labels: Sequence[str], init: str) -> None:
    """Require labels that have a gradient, and a start that does; unknown labels pass."""
    if not INJECTIONS[inject].through_solver:
        return
    able = [label for label in LABELS if LABELS[label].through_solver]
    without = [label for label in labels if label in LABELS and label not in able]
    if without:
        raise InputError(
            "run.labels",
            got=f"{', '.join(without)} with corrector.inject={inject!r}, where the loss is reached "
            "through the solver alone: they have no gradient",
            expected=f"some of {', '.join(able)}",
        )
    if init == "non":
        raise InputError(
            "training.init",
            got=f"'non' with corrector.inject={inject!r}, where NON has no gradient",
            expected="'scratch'",
            remedy="--set training.init=scratch",
        )


def check_first_guess(names: Sequence[str], guesses: Tensor) -> str:
    """Require a first guess of every parameter; what there is to say of one that is not positive.

    Args:
        names: The forcing channels, all parameters.
        guesses: (simulation, time, channel, cell), of the data.
    """
    said = []
    for name, numbers in zip(names, guesses.transpose(0, 2), strict=True):
        share = float((numbers <= 0).double().mean())
        if not bool((numbers != 0).any()):
            raise InputError(
                "corrector.inject",
                got=f"'parameter', and {name} is 0 everywhere in the data, which no factor changes",
                expected="a first guess of the parameter, a positive number",
            )
        if share > 0:
            said.append(f"{name} is 0 or negative in {100 * share:.2g} % of its numbers")
    return f"{'; '.join(said)}: a factor changes neither 0 nor the sign" if said else ""


def check_forcing(inject: str, grid: Domain) -> None:
    """Require a solver that has a forcing, where the network is to act on it."""
    if INJECTIONS[inject].adds_to == "forcing" and not grid.forcing_channels:
        raise InputError(
            "corrector.inject",
            got=f"{inject!r} with a solver whose grid has no forcing channels",
            expected="'after' or 'before'",
        )
