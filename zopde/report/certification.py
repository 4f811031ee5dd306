"""Pictures of certified classifiers: accuracy by radius, and images that a defence restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from zopde.report.colours import COLOURS
from zopde.report.panels import legend, one_plot, save

# Of models, which have no colour of their own; told apart by colour-blind readers, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
_DASHED = {"none", "MSE", "AE-MSE"}  # methods that ask the classifier nothing
_ACCURACY = "certified accuracy [%]"


@dataclass(frozen=True)
class Certified:
    """Certified accuracy of one model."""

    label: str  # its name
    # (point,), L2, from 0 to where nothing can be certified any more
    radius: Float[np.ndarray, " point"]
    share: Float[np.ndarray, " point"]  # (point,), certified accuracy in [0, 1]
    low: Float[np.ndarray, " point"]  # (point,), lower end of the confidence band
    high: Float[np.ndarray, " point"]  # (point,), upper end


def save_certified_accuracy(path: Path, curves: Sequence[Certified]) -> None:
    """Certified accuracy against the radius, one line per model, its band shaded."""
    figure, axes = one_plot(xlabel="L2 radius, in the units of the model's input", ylabel=_ACCURACY)
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(curve.radius, 100 * curve.share, color=colour, label=curve.label, lw=1.8)
        band = 100 * curve.low, 100 * curve.high
        axes.fill_between(curve.radius, *band, color=colour, alpha=0.15, linewidth=0)
    axes.set_title("Shaded: 95 % confidence, by the number of images", fontsize=10)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    legend(axes)
    save(figure, path)


def save_certified(
    path: Path,
    verdicts: Mapping[str, Sequence[tuple[Sequence[float], Sequence[bool]]]],
    sigma: float,
) -> None:
    """Certified accuracy against the radius, mean over the seeds, one line per method.

    Args:
        path: PNG to write.
        verdicts: Method -> for each seed (radii, whether right).
        sigma: Deviation of the noise, in the units of the radii.
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
    axes.set_xlim(0, at[-1])
    axes.set_ylim(0, 100)
    legend(figure, loc="outside right upper")
    save(figure, path)


@dataclass(frozen=True)
class ImageRow:
    """Some images as one defence makes them."""

    name: str  # of the defence
    pixels: Float[np.ndarray, "image channel y x"]  # (image, channel, y, x), in [0, 1]
    said: Sequence[str]  # (image,), what the classifier takes each for
    right: Sequence[bool]  # (image,), whether it is that


def save_images(path: Path, rows: Sequence[ImageRow]) -> None:
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
            axes.set_xticks(())
            axes.set_yticks(())
        line[0].set_ylabel(row.name, fontsize=8, rotation=0, ha="right", va="center")
    save(figure, path)
