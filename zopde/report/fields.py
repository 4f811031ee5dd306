"""One unseen run, label beside label: its last state, or all states of a line; as a GIF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from zopde.contracts import Domain
from zopde.grid import Grid
from zopde.report.panels import (
    COLOURS,
    Plane,
    colour_bar,
    draw,
    field_panels,
    label_axes,
    legend,
    mid_plane,
    pixels_of,
    plane_of,
    time_of,
    unit,
)
from zopde.report.spectrum import name_of, vector_channels

# Share of the reference that the colours of vorticity tell apart; thin layers at a wall exceed it.
_SHOWN = 0.99
_COLUMNS = 4  # of panels: more are too small on a page
_SECONDS = 6.0  # of one round of the animation
_COLOURS = 61  # few make the file small
_DPI = 120


def draw_fields(states: Mapping[str, Tensor], grid: Domain, run: int = 0) -> Figure:
    """One unseen run of every label, beside its errors against the first of them.

    Of states (time, channel, *space) the last one is drawn, of a box its middle plane; on a line
    all of them, time upwards; of a mesh the points, see `draw_points`. They share one colour
    scale, the errors another; what is far above the others has the scale's last colour. Of a
    vector the magnitude is shown, of its error likewise: |u - r|. The number of the run, from 0, is
    for the title.
    """
    chosen = vector_channels(grid)
    fields = _arrays({name: _on_plane(whole, grid)[chosen] for name, whole in states.items()})
    reference = next(iter(fields.values()))
    values = {n: np.linalg.norm(f, axis=0) if len(f) > 1 else f[0] for n, f in fields.items()}
    errors = {n: np.linalg.norm(f - reference, axis=0) for n, f in list(fields.items())[1:]}
    there = np.isfinite(reference).all(axis=0)  # where it was measured
    steps = len(next(iter(states.values()))) - 1
    plane, highest = plane_of(grid, steps), _limit({n: e[there] for n, e in errors.items()}, 3)
    name, limits, colours = name_of(grid, chosen), (0.0, _limit(values, 20)), "viridis"
    if len(chosen) == 1:
        seen = np.where(plane.fluid, reference, np.nan)
        limits, colours = _colours_of(seen, signed=bool((seen < 0).any()))
    weights = _weights(grid)
    figure, panels, pairs = _pairs(plane, len(fields))
    for (above, below), label in zip(pairs, fields, strict=False):
        top = draw(above, values[label], plane, limits, colours)
        above.set_title(label, fontsize=10)
        if label in errors:
            low = draw(below, errors[label], plane, (0, highest), "magma")
            later = errors[label][plane.mesh is None and len(grid.shape) == 1 :]  # than the start
            known = there[len(there) - len(later) :]
            shares = np.broadcast_to(weights, later.shape)[known]
            mean = float((later[known] * shares).sum() / (shares.sum() or 1.0))
            told = f"error, mean {mean:.3g}" if np.isfinite(mean) else "diverged"
            below.set_title(told, fontsize=9)
    for axes in (pairs[0, 1], *pairs[len(fields) :].flat):
        axes.axis("off")
    first = max(1, (len(panels) // 2 - 1) * len(panels[0]))  # with an error, in the last row
    label_axes(pairs[-1, 0] if plane.is_wide else pairs[first, 1], plane)
    left, right = np.split(panels, [panels.shape[1] // 2], axis=1)
    of_space, both = unit(grid, grid.channels[chosen[0]]), "max" if limits[0] == 0 else "both"
    bar: dict[str, Any] = {"location": "bottom", "fraction": 0.35 / figure.get_figheight()}
    shown, error = f"|{name}|" if len(chosen) > 1 else name, f"|{name} - reference|"
    colour_bar(figure, top, left, label=f"{shown} [{of_space}]", extend=both, **bar)
    colour_bar(figure, low, right, label=f"{error} [{of_space}]", extend="max", **bar)
    figure.suptitle(_moment(grid, steps, run), fontsize=10)
    return figure


def _weights(grid: Domain) -> np.ndarray | float:
    """Of the cells of the plane that is shown, of mean 1."""
    if grid.cell_weights is None:
        return 1.0
    weights: np.ndarray = mid_plane(grid.cell_weights, grid).numpy()
    return weights / (weights.mean() or 1.0)


def _on_plane(states: Tensor, grid: Domain) -> Tensor:
    """(time, channel, *space) -> (channel, a, b), on `plane_of`."""
    return states.transpose(0, 1) if _is_line(grid) else mid_plane(states[-1], grid)


def _is_line(grid: Domain) -> bool:
    """Whether all times are drawn, upwards."""
    return isinstance(grid, Grid) and len(grid.shape) == 1


def _pairs(plane: Plane, count: int) -> tuple[Figure, Any, Any]:
    """A figure, its panels (row, column), and these as `count` pairs or more: (pair, 2).

    The panels of a pair are side by side where the plane is wide, else below each other.
    """
    if plane.is_wide:
        figure, panels = field_panels(plane, count, 2, bar_below=True)
        return figure, panels, panels
    rows = -(-count // _COLUMNS)
    columns = -(-count // rows)
    figure, panels = field_panels(plane, 2 * rows, columns, bar_below=True)
    return figure, panels, panels.reshape(-1, 2, columns).transpose(0, 2, 1).reshape(-1, 2)


def draw_vorticity(fields: Mapping[str, Tensor], grid: Domain, step: int, run: int = 0) -> Figure:
    """Vorticity (y, x) of one unseen run at one time, one panel per label; NaN: no fluid.

    The first one, the reference, decides the colours of all.
    """
    shown = _arrays(fields)
    limits, colours = _colours_of(next(iter(shown.values())), signed=True)
    plane = plane_of(grid)
    columns = 2 if plane.is_wide else _COLUMNS
    figure, panels = field_panels(plane, -(-len(shown) // columns), columns)
    for axes, (name, values) in zip(panels.flat, shown.items(), strict=False):
        drawn = draw(axes, values, plane, limits, colours)
        diverged = "" if np.isfinite(values).any() else " (diverged)"
        axes.set_title(f"{name}{diverged}", fontsize=10)
    for axes in panels.flat[len(shown) :]:
        axes.axis("off")
    label_axes(panels[(len(shown) - 1) // columns, 0], plane)
    speed, space = grid.unit(grid.channels[0]), grid.unit("space")
    of = "-" if speed == space == "1" else f"{speed} / {space}"
    colour_bar(figure, drawn, panels, label=f"vorticity [{of}]", shrink=0.8, extend="both")
    figure.suptitle(_moment(grid, step, run), fontsize=10)
    return figure


def draw_parameter(fields: Mapping[str, Tensor], grid: Domain) -> Figure:
    """Fields (channel, *space) of the first unseen run at its start, label beside label.

    A row for each channel of the grid, or several where there are many labels, with one scale. Of a
    box its middle plane is drawn; on a line all labels are lines in one panel.
    """
    shown = _arrays(fields)
    if _is_line(grid):
        return _parameter_on_a_line(shown, grid)
    plane, channels = plane_of(grid), len(grid.channels)
    columns = min(len(shown), 2 if plane.is_wide else _COLUMNS)
    figure, panels = field_panels(plane, channels * -(-len(shown) // columns), columns)
    blocks = panels.reshape(channels, -1)
    for row, (channel, block) in enumerate(zip(grid.channels, blocks, strict=True)):
        flat = [mid_plane(torch.from_numpy(v[row]), grid).numpy() for v in shown.values()]
        limits = _ends(np.concatenate([np.where(plane.fluid, v, np.nan).ravel() for v in flat]))
        for axes, label, values in zip(block, shown, flat, strict=False):
            drawn = draw(axes, values, plane, limits, "viridis")
            axes.set_title(label, fontsize=10)
        for axes in block[len(shown) :]:
            axes.axis("off")
        colour_bar(figure, drawn, list(block), label=f"{channel} [{unit(grid, channel)}]")
    label_axes(blocks[-1, (len(shown) - 1) // columns * columns], plane)
    figure.suptitle(_moment(grid, 0, 0), fontsize=10)
    return figure


def _parameter_on_a_line(fields: Mapping[str, np.ndarray], grid: Domain) -> Figure:
    assert isinstance(grid, Grid)
    figure = Figure((7.0, 3.0 * len(grid.channels)), layout="constrained")
    panels = figure.subplots(len(grid.channels), 1, squeeze=False)[:, 0]
    for row, (axes, channel) in enumerate(zip(panels, grid.channels, strict=True)):
        for label, values in fields.items():
            style = {"color": COLOURS.get(label, "#000000" if label == "first guess" else None)}
            axes.plot(grid.centres(0), values[row], label=label, **style)
        axes.set_ylabel(f"{channel} [{unit(grid, channel)}]")
        axes.grid(alpha=0.25)
    axes.set_xlabel(f"{grid.dims[0]} [{unit(grid, 'space')}]")
    legend(panels[0])
    figure.suptitle(f"Unseen run 1 at {time_of(grid, 0)}", fontsize=10)
    return figure


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Of a colour scale: the least and the largest that is finite."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _arrays(fields: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: field.detach().cpu().double().numpy() for name, field in fields.items()}


def _moment(grid: Domain, step: int, run: int) -> str:
    if _is_line(grid):
        return f"Unseen run {run + 1}, to {time_of(grid, step)}"
    where = plane_of(grid).where
    return f"Unseen run {run + 1} at {time_of(grid, step)}{where and ', '}{where}"


def _limit(fields: Mapping[str, Any], most: float) -> float:
    """Common top of a colour scale, not spoilt by one `most` times above the least."""
    peaks = [float(np.max(f)) for f in fields.values() if f.size]
    finite = [p for p in peaks if np.isfinite(p)]
    least = min(finite, default=1.0)
    return max([p for p in finite if p <= most * least] or [1.0])


def _colours_of(
    reference: Float[np.ndarray, "*any"], signed: bool
) -> tuple[tuple[float, float], str]:
    """Colours, and the range that they tell apart; thin layers of the reference exceed it."""
    finite = reference[np.isfinite(reference)]
    finite = finite if finite.size else np.zeros(1)  # a plane of which nothing was measured
    if signed:
        top = float(np.quantile(np.abs(finite), _SHOWN)) or 1.0
        return (-top, top), "RdBu_r"
    low, high = map(float, np.quantile(finite, (1 - _SHOWN, _SHOWN)))
    return (low, high if high > low else low + 1.0), "viridis"


@dataclass(frozen=True)
class Film:
    """Fields of one unseen run over time."""

    # Label -> (time, a, b) on the plane of `plane_of`, NaN where there is nothing to see; the
    # reference first, whose values decide the colours
    fields: Mapping[str, Float[np.ndarray, "time a b"]]
    grid: Domain
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
    grid, plane, reference = film.grid, plane_of(film.grid), next(iter(film.fields.values()))
    limits, colours = _colours_of(np.where(plane.fluid, reference, np.nan), film.signed)
    # Wide panels stand above each other.
    flat = plane.is_wide
    shape = (len(film.fields), 1) if flat else (1, len(film.fields))
    figure, panels = field_panels(plane, *shape, bar_below=flat)
    figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(figure)
    images = {}
    for axes, (label, values) in zip(panels.flat, film.fields.items(), strict=True):
        axes.set_title(label, fontsize=10)
        images[label] = draw(axes, values[0], plane, limits, colours)
    side = "bottom" if flat else "right"
    colour_bar(figure, images[label], panels, label=film.name, location=side, shrink=0.8)
    where = f", {plane.where}" if plane.where else ""
    title = figure.suptitle(time_of(grid, 0) + where, fontsize=10)
    palette, pictures = _palette(colours), []
    steps = len(reference)
    for step in np.unique(np.linspace(0, steps - 1, min(frames, steps)).round().astype(int)):
        for label, image in images.items():
            image.set_data(pixels_of(film.fields[label][step], plane))
        title.set_text(time_of(grid, step) + where)
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
