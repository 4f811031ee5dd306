"""Pictures of a defence run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from zopde.report.colours import COLOURS
from zopde.report.panels import save


@dataclass(frozen=True)
class ImageRow:
    """Some images as one defence makes them.

    Args:
        name: Of the defence.
        pixels: (image, channel, y, x), in [0, 1].
        said: (image,), what the classifier takes each for.
        right: (image,), whether it is that.
    """

    name: str
    pixels: Float[np.ndarray, "image channel y x"]
    said: Sequence[str]
    right: Sequence[bool]


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
    every = [radii for each in verdicts.values() for radii, _ in each]
    most = max((max(radii) for radii in every), default=0.0) or sigma
    at = np.linspace(0, 1.05 * most, 300)
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, each in verdicts.items():
        shares = [
            100 * ((np.asarray(r)[:, None] >= at) & np.asarray(ok)[:, None]).mean(axis=0)
            for r, ok in each
        ]
        dashed = "--" if name in {"none", "MSE", "AE-MSE"} else "-"
        axes.plot(at, np.mean(shares, axis=0), dashed, color=COLOURS.get(name), label=name, lw=1.6)
    axes.set_xlabel("radius of the change (L2, pixels in [0, 1])")
    axes.set_ylabel("certified accuracy [%]")
    axes.set_title(f"Smoothed with sigma = {sigma:g}; mean over the seeds", fontsize=10)
    axes.set_xlim(0, at[-1])
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    save(figure, path)


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
