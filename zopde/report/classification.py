"""Pictures of a classification run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from torch import Tensor

from zopde.report.colours import COLOURS
from zopde.report.panels import save, short_ticks


@dataclass(frozen=True)
class Learning:
    """Accuracy of one method along its training, mean over the seeds.

    Args:
        method: Its name.
        queries: Evaluations of the objective so far.
        seconds: Training time so far.
        accuracy: On the test images, in percent.
    """

    method: str
    queries: Sequence[int]
    seconds: Sequence[float]
    accuracy: Sequence[float]


def save_learning_curves(path: Path, curves: Sequence[Learning]) -> None:
    """Test accuracy against queries and against seconds, both on logarithmic axes."""
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for curve in curves:
        for axes, along in zip(panels, (curve.queries, curve.seconds), strict=True):
            axes.plot(
                along, curve.accuracy, color=COLOURS.get(curve.method), label=curve.method, lw=1.8
            )
    for axes, name in zip(panels, ("queries of the loss", "seconds of training"), strict=True):
        axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.grid(alpha=0.25)
        short_ticks(axes)
    panels[0].set_ylabel("test accuracy [%]")
    panels[1].legend(frameon=False, fontsize=9)
    save(figure, path)


def save_confusion(
    path: Path, matrices: Mapping[str, Int[Tensor, "true said"]], classes: Sequence[str]
) -> None:
    """What the images of each class were taken for, in percent of the class, per method."""
    figure = Figure(figsize=(3.4 * len(matrices) + 1.0, 4.0), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    few = len(classes) <= 20
    for axes, (name, counts) in zip(panels, matrices.items(), strict=True):
        matrix = counts.double().numpy()
        share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        shown = axes.imshow(share, vmin=0, vmax=100, cmap="viridis")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("said")
        ticks = range(len(classes)) if few else ()
        axes.set_xticks(ticks, classes if few else (), rotation=90, fontsize=7)
        axes.set_yticks(ticks, classes if few else (), fontsize=7)
    panels[0].set_ylabel("true")
    figure.colorbar(shown, ax=list(panels), label="% of the class", shrink=0.8)
    save(figure, path)


def save_layer_ratios(path: Path, shares: Mapping[str, Mapping[str, float]]) -> None:
    """Which share of each layer's weights a mask activates, one line per method.

    Args:
        path: PNG to write.
        shares: Method -> layer -> share in [0, 1].
    """
    names = list(next(iter(shares.values())))
    figure = Figure(figsize=(max(5.0, 0.3 * len(names) + 2.0), 4.2), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(names))
    for method, layers in shares.items():
        values = [100 * layers[name] for name in names]
        axes.plot(places, values, "o-", color=COLOURS.get(method), label=method, ms=4, lw=1.2)
    axes.set_xticks(places, names, rotation=90, fontsize=7)
    axes.set_ylabel("active weights [%]")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)
