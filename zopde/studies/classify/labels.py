"""The compared ways of training a classifier, and what sets each apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Label:
    """One row of the table."""

    gradient: Literal["backprop", "cge", "rge"]  # "backprop", "cge" or "rge"
    # Which weights move: all; those of a random mask with the layers' ratios, drawn anew every few
    # epochs; or those that pruning at the start leaves, the others zero
    mask: Literal["none", "resampled", "pruned"] = "none"


LABELS = {
    "FO": Label("backprop"),
    "FO-sparse-gradient": Label("backprop", "resampled"),
    "FO-sparse-weights": Label("backprop", "pruned"),
    "CGE": Label("cge"),
    "RGE": Label("rge"),
    "DeepZero": Label("cge", "resampled"),
}
"""Row of the table of results -> what sets it apart from the others."""
