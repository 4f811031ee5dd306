"""Pictures of classifiers: confusion, masks, certified accuracy, images that a defence restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from zopde.report.panels import COLOURS, legend, one_plot

# Of models, which have no colour of their own; told apart by colour-blind readers, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
_DASHED = {"none", "MSE", "AE-MSE"}  # methods that ask the classifier nothing
_ACCURACY = "certified accuracy [%]"


def draw_confusion(
    matrices: Mapping[str, Int[Tensor, "true said"]], classes: Sequence[str]
) -> Figure:
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
    return figure


def draw_layer_ratios(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """Which share of each layer's weights, in [0, 1], a mask activates, one line per method."""
    names = list(next(iter(shares.values())))
    figure, axes = one_plot(max(5.0, 0.3 * len(names) + 2.0), ylabel="active weights [%]")
    for method, layers in shares.items():
        values = [100 * layers[name] for name in names]
        colour = COLOURS.get(method)
        axes.plot(range(len(names)), values, "o-", color=colour, label=method, ms=4, lw=1.2)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_ylim(bottom=0)
    legend(axes)
    return figure


@dataclass(frozen=True)
class Certified:
    """Certified accuracy of one model."""

    label: str
    radius: Float[np.ndarray, " point"]  # L2, from 0 to where nothing can be certified any more
    share: Float[np.ndarray, " point"]  # certified accuracy in [0, 1]
    low: Float[np.ndarray, " point"]  # lower end of the confidence band
    high: Float[np.ndarray, " point"]


def draw_certified_accuracy(curves: Sequence[Certified]) -> Figure:
    """Certified accuracy against the radius, one line per model, its band shaded."""
    figure, axes = one_plot(xlabel="L2 radius, in the units of the model's input", ylabel=_ACCURACY)
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(curve.radius, 100 * curve.share, color=colour, label=curve.label, lw=1.8)
        band = 100 * curve.low, 100 * curve.high
        axes.fill_between(curve.radius, *band, color=colour, alpha=0.15, linewidth=0)
    axes.set_title("Shaded: 95 % confidence, by the number of images", fontsize=10)
    axes.set(xlim=(0, None), ylim=(0, 100))
    legend(axes)
    return figure


def draw_certified(
    verdicts: Mapping[str, Sequence[tuple[Sequence[float], Sequence[bool]]]],
    sigma: float,
) -> Figure:
    """Certified accuracy against the radius, mean over the seeds, one line per method.

    Of each method and seed the verdicts are (radii, whether right); sigma is in their units.
    """
    largest = [max(radii) for seeds in verdicts.values() for radii, _ in seeds]
    at = np.linspace(0, 1.05 * (max(largest, default=0.0) or sigma), 300)
    figure, axes = one_plot(8.4, "radius of the change (L2, pixels in [0, 1])", _ACCURACY)
    for method, seeds in verdicts.items():
        shares = [
            100 * ((np.asarray(radii)[:, None] >= at) & np.asarray(right)[:, None]).mean(axis=0)
            for radii, right in seeds
        ]
        style, colour = "--" if method in _DASHED else "-", COLOURS.get(method)
        axes.plot(at, np.mean(shares, axis=0), style, color=colour, label=method, lw=1.6)
    axes.set_title(f"Smoothed with sigma = {sigma:g}; mean over the seeds", fontsize=10)
    axes.set(xlim=(0, at[-1]), ylim=(0, 100))
    legend(figure, loc="outside right upper")
    return figure


@dataclass(frozen=True)
class ImageRow:
    """Some images as one defence makes them."""

    name: str  # of the defence
    pixels: Float[np.ndarray, "image channel y x"]  # in [0, 1]
    said: Sequence[str]  # what the classifier takes each image for
    right: Sequence[bool]  # whether it is that


def draw_images(rows: Sequence[ImageRow]) -> Figure:
    """One row per defence; above each image what it is taken for, red where that is wrong."""
    count = len(rows[0].pixels)
    figure = Figure(figsize=(1.0 * count + 1.6, 1.15 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), count, squeeze=False)
    for row, line in zip(rows, panels, strict=True):
        for i, axes in enumerate(line):
            image = np.clip(np.moveaxis(row.pixels[i], 0, -1), 0, 1)
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
            colour = "black" if row.right[i] else "#D55E00"
            axes.set_title(row.said[i], fontsize=8, color=colour, pad=2)
            axes.set(xticks=(), yticks=())
        line[0].set_ylabel(row.name, fontsize=8, rotation=0, ha="right", va="center")
    return figure
