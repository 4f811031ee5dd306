"""States of one unseen run, label beside label: one time as PNG, all of them as one GIF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import Tensor

from zopde.grid import Grid
from zopde.report.panels import (
    draw,
    field_panels,
    label_axes,
    lies_down,
    pixels_of,
    save,
    time_of,
    unit,
)

# Share of the reference that the colours of vorticity tell apart; thin layers at a wall exceed it.
_SHOWN = 0.99
_SECONDS = 6.0  # of one round of the animation
_COLOURS = 61  # few make the file small
_DPI = 120


def save_fields(
    path: Path, states: Mapping[str, Tensor], grid: Grid, step: int, run: int = 0
) -> None:
    """States of one unseen run at one time, beside their errors against the first of them.

    The states (channel, y, x) share one colour scale, the errors another; what is far above the
    others has the scale's last colour. Of a vector the magnitude is shown, of its error likewise:
    |u - r|. Step and run, from 0, are for the title.
    """
    fields = _arrays(states)
    reference = next(iter(fields.values()))
    magnitudes = {name: np.linalg.norm(field, axis=0) for name, field in fields.items()}
    errors = {n: np.linalg.norm(f - reference, axis=0) for n, f in list(fields.items())[1:]}
    weights = 1.0 if grid.cell_weights is None else grid.cell_weights.numpy()
    # Panels that lie down form two columns, others two rows.
    flat = lies_down(grid)
    figure, panels = field_panels(grid, *((len(fields), 2) if flat else (2, len(fields))))
    pairs = panels if flat else panels.T
    highest = _limit(magnitudes, 20), _limit(errors, 3)
    for (above, below), name in zip(pairs, fields, strict=True):
        top = draw(above, magnitudes[name], grid, (0, highest[0]), "viridis")
        above.set_title(name, fontsize=10)
        if name in errors:
            low = draw(below, errors[name], grid, (0, highest[1]), "magma")
            below.set_title(f"error, mean {(errors[name] * weights).mean():.3g}", fontsize=9)
        else:
            below.axis("off")
    of_space = unit(grid, grid.channels[0])
    bar: dict[str, Any] = {"location": "right", "shrink": 0.9, "extend": "max"}
    if flat:  # a bar below takes a share of all rows together: a thin one is enough
        bar |= {"location": "bottom", "fraction": 0.02}
    figure.colorbar(top, ax=pairs[:, 0], label=f"|u| [{of_space}]", **bar)
    figure.colorbar(low, ax=pairs[:, 1], label=f"|u - reference| [{of_space}]", **bar)
    figure.suptitle(_moment(grid, step, run), fontsize=10)
    save(figure, path)


def save_vorticity(
    path: Path, fields: Mapping[str, Tensor], grid: Grid, step: int, run: int = 0
) -> None:
    """Vorticity (y, x) of one unseen run at one time, one panel per label; NaN: no fluid.

    The first one, the reference, decides the colours of all.
    """
    shown = _arrays(fields)
    limit = float(np.nanquantile(np.abs(next(iter(shown.values()))), _SHOWN)) or 1.0
    columns = 2 if lies_down(grid) else 4
    figure, panels = field_panels(grid, -(-len(shown) // columns), columns)
    for axes, (name, values) in zip(panels.flat, shown.items(), strict=False):
        drawn = draw(axes, values, grid, (-limit, limit), "RdBu_r")
        diverged = "" if np.isfinite(values).any() else " (diverged)"
        axes.set_title(f"{name}{diverged}", fontsize=10)
    for axes in panels.flat[len(shown) :]:
        axes.axis("off")
    label_axes(panels[(len(shown) - 1) // columns, 0], grid)
    speed, space = grid.unit(grid.channels[0]), grid.unit("space")
    of = "-" if speed == space == "1" else f"{speed} / {space}"
    figure.colorbar(drawn, ax=panels, label=f"vorticity [{of}]", shrink=0.8, extend="both")
    figure.suptitle(_moment(grid, step, run), fontsize=10)
    save(figure, path)


def _arrays(fields: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: field.detach().cpu().double().numpy() for name, field in fields.items()}


def _moment(grid: Grid, step: int, run: int) -> str:
    return f"Unseen run {run + 1} after {step} steps ({time_of(grid, step)})"


def _limit(fields: Mapping[str, Any], most: float) -> float:
    """Common top of a colour scale, not spoilt by one `most` times above the least."""
    peaks = [float(np.max(f)) for f in fields.values()]
    finite = [p for p in peaks if np.isfinite(p)]
    least = min(finite, default=1.0)
    return max([p for p in finite if p <= most * least] or [1.0])


@dataclass(frozen=True)
class Film:
    """Fields of one unseen run over time."""

    # Label -> (time, y, x), NaN where there is nothing to see; the reference first, whose values
    # decide the colours
    fields: Mapping[str, Float[np.ndarray, "time y x"]]
    grid: Grid
    name: str  # what is shown, with its unit
    signed: bool  # whether the colours are those of a quantity that has a sign


def animate(film: Film, frames: int = 60, most: int = 1_400_000) -> tuple[bytes, bytes]:
    """An endless GIF of so many frames at most, evenly in time, and its last frame as PNG.

    Every other frame is left out until the GIF has at most `most` bytes.
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
    top = float(np.quantile(reference[np.isfinite(reference)], _SHOWN)) or 1.0
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
    """The colours of the fields, and greys for the words; one for all frames: nothing flickers."""
    fields = colormaps[colours](np.linspace(0, 1, _COLOURS), bytes=True)[:, :3]
    greys = np.arange(0, 256, 0x11)[:, None].repeat(3, axis=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([fields, greys]).astype(np.uint8).tobytes())
    return palette
