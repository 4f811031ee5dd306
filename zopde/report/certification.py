"""Pictures of certifications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from zopde.report.panels import save

# Told apart by colour-blind readers, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")


@dataclass(frozen=True)
class Certified:
    """Certified accuracy of one model.

    Args:
        label: Its name.
        radius: (point,), L2, from 0 to where nothing can be certified any more.
        share: (point,), certified accuracy in [0, 1].
        low: (point,), lower end of the confidence band.
        high: (point,), upper end.
    """

    label: str
    radius: Float[np.ndarray, " point"]
    share: Float[np.ndarray, " point"]
    low: Float[np.ndarray, " point"]
    high: Float[np.ndarray, " point"]


def save_certified_accuracy(path: Path, curves: Sequence[Certified]) -> None:
    """Certified accuracy against the radius, one line per model, its band shaded."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(curve.radius, 100 * curve.share, color=colour, label=curve.label, lw=1.8)
        axes.fill_between(
            curve.radius, 100 * curve.low, 100 * curve.high, color=colour, alpha=0.15, linewidth=0
        )
    axes.set_xlabel("L2 radius, in the units of the model's input")
    axes.set_ylabel("certified accuracy [%]")
    axes.set_title("Shaded: 95 % confidence, by the number of images", fontsize=10)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)
