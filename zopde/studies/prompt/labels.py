"""The compared ways of finding prompts, and what sets each apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gradient = Literal["none", "backprop", "cge", "rge", "projected"]


@dataclass(frozen=True)
class Label:
    """One row of the table."""

    # Where it comes from: nowhere; back-propagation through the model, which then is no black box;
    # single entries of the prompts; random directions of all of them; random directions of a few
    # numbers that a fixed random projection turns into prompts
    gradient: Gradient
    visual: bool = True  # whether there is a visual prompt
    text: bool = True  # whether there are text prompts

    @property
    def zeroth_order(self) -> bool:
        """Whether answers are all it needs of the model."""
        return self.gradient in {"cge", "rge", "projected"}


LABELS = {
    "BASE": Label("none", visual=False, text=False),
    "FO-visual": Label("backprop", text=False),
    "FO-text": Label("backprop", visual=False),
    "FO": Label("backprop"),
    "CGE-visual": Label("cge", text=False),
    "CGE-text": Label("cge", visual=False),
    "CGE": Label("cge"),
    "RGE-visual": Label("rge", text=False),
    "RGE-text": Label("rge", visual=False),
    "RGE": Label("rge"),
    "ZIP-visual": Label("projected", text=False),
    "ZIP-text": Label("projected", visual=False),
    "ZIP": Label("projected"),
}
"""Row of the table of results -> what sets it apart from the others."""


def white_box(name: str) -> str:
    """The row that finds the same prompts by back-propagation."""
    _, hyphen, kind = name.partition("-")
    return f"FO{hyphen}{kind}"
