"""Pictures of classifiers: what is taken for what, and which weights a mask activates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from torch import Tensor

from zopde.report.colours import COLOURS
from zopde.report.panels import legend, one_plot, save


def save_confusion(
    path: Path, matrices: Mapping[str, Int[Tensor, "true said"]], classes: Sequence[str]
) -> None:
    """What the images of each class were taken for, in percent of the class, per method."""
    figure = Figure(figsize=(3.4 * len(matrices) + 1.0, 4.0), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    names = classes if len(classes) <= 20 else ()
    for axes, (method, counts) in zip(panels, matrices.items(), strict=True):
        matrix = counts.double().numpy()
        share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        shown = axes.imshow(share, vmin=0, vmax=100, cmap="viridis")
        axes.set_title(method, fontsize=10)
        axes.set_xlabel("said")
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
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
    figure, axes = one_plot(max(5.0, 0.3 * len(names) + 2.0), ylabel="active weights [%]")
    for method, layers in shares.items():
        values = [100 * layers[name] for name in names]
        colour = COLOURS.get(method)
        axes.plot(range(len(names)), values, "o-", color=colour, label=method, ms=4, lw=1.2)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_ylim(bottom=0)
    legend(axes)
    save(figure, path)
