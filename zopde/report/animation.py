"""Fields in motion, side by side, as one GIF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from zopde.grid import Grid
from zopde.report.fields import SHOWN
from zopde.report.panels import draw, field_panels, lies_down, pixels_of, time_of

_SECONDS = 6.0  # of one round
_COLOURS = 61  # few make the file small
_DPI = 120


@dataclass(frozen=True)
class Film:
    """Fields of one unseen run over time."""

    # Label -> (time, y, x), NaN where there is nothing to see; the reference first, whose values
    # decide the colours
    fields: Mapping[str, Float[np.ndarray, "time y x"]]
    grid: Grid  # where they live
    name: str  # what is shown, with its unit
    signed: bool  # whether the colours are those of a quantity that has a sign


def animate(film: Film, frames: int = 60, most: int = 1_400_000) -> tuple[bytes, bytes]:
    """An endless GIF and, as PNG, its last frame.

    Args:
        film: What to show.
        frames: How many, evenly in time, at most.
        most: Bytes that the GIF may have: every other frame is left out until it fits.

    Returns:
        (the GIF, the last frame).
    """
    pictures, still = _pictures(film, frames), BytesIO()
    pictures[-1].save(still, "PNG", optimize=True)
    while True:
        gif = BytesIO()
        pause = round(1000 * _SECONDS / len(pictures))
        first, *others = pictures
        first.save(gif, "GIF", save_all=True, append_images=others, duration=pause, loop=0)
        if gif.tell() <= most or len(pictures) < 4:
            return gif.getvalue(), still.getvalue()
        pictures = pictures[::-2][::-1]  # the last one stays


def _pictures(film: Film, frames: int) -> list[Image.Image]:
    grid, steps = film.grid, len(next(iter(film.fields.values())))
    reference = np.abs(next(iter(film.fields.values())))
    top = float(np.quantile(reference[np.isfinite(reference)], SHOWN)) or 1.0
    limits, colours = ((-top, top), "RdBu_r") if film.signed else ((0.0, top), "viridis")
    # Panels that lie down stand above each other.
    flat = lies_down(grid)
    shape = (len(film.fields), 1) if flat else (1, len(film.fields))
    figure, panels = field_panels(grid, *shape, bar_below=flat)
    figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(figure)
    images = {}
    for axes, (label, values) in zip(panels.flat, film.fields.items(), strict=True):
        axes.set_title(label, fontsize=10)
        images[label] = draw(axes, values[0], grid, limits, colours)
    where = "bottom" if flat else "right"
    figure.colorbar(images[label], ax=panels, label=film.name, location=where, shrink=0.8)
    title = figure.suptitle(time_of(grid, 0), fontsize=10)
    palette, pictures = _palette(colours), []
    for step in np.unique(np.linspace(0, steps - 1, min(frames, steps)).round().astype(int)):
        for label, image in images.items():
            image.set_data(pixels_of(film.fields[label][step], grid))
        title.set_text(time_of(grid, step))
        canvas.draw()
        figure.set_layout_engine("none")  # as the first frame: nothing moves but the fields
        picture = Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")
        pictures.append(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    return pictures


def _palette(colours: str) -> Image.Image:
    """The colours of the fields, and greys for the words: 00, 11 ... bb (nothing) ... ff.

    The same for all frames: nothing flickers.
    """
    fields = colormaps[colours](np.linspace(0, 1, _COLOURS), bytes=True)[:, :3]
    greys = np.arange(0, 256, 0x11)[:, None].repeat(3, axis=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([fields, greys]).astype(np.uint8).tobytes())
    return palette
