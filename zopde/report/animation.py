"""Fields in motion, side by side, as one GIF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from zopde.grid import Grid
from zopde.report.panels import lies_down

_WIDTH = 400  # of a panel, about, in pixels
_GAP, _TITLE, _FOOT = 10, 26, 26  # pixels
_NOTHING = (187, 187, 187)  # an obstacle, or a run that diverged
_SECONDS = 6.0  # of one round
_COLOURS, _GREYS = 61, 194  # few colours make the file small; with one for nothing, 256
_SHOWN = 0.99  # share of the reference that the colours tell apart


@dataclass(frozen=True)
class Film:
    """Fields of one unseen run over time.

    Args:
        fields: Label -> (time, y, x), NaN where there is nothing to see; the reference first,
            whose values decide the colours.
        grid: Where they live.
        name: What is shown, with its unit.
        signed: Whether the colours are those of a quantity that has a sign.
    """

    fields: Mapping[str, Float[np.ndarray, "time y x"]]
    grid: Grid
    name: str
    signed: bool


def animate(film: Film, frames: int = 60, most: int = 1_400_000) -> tuple[bytes, bytes]:
    """An endless GIF and, as PNG, its last frame.

    Args:
        film: What to show.
        frames: How many, evenly in time, at most.
        most: Bytes that the GIF may have: every other frame is left out until it fits.

    Returns:
        (the GIF, the last frame).
    """
    steps = len(next(iter(film.fields.values())))
    times = np.unique(np.linspace(0, steps - 1, min(frames, steps)).round().astype(int))
    drawn = _frames(film, times)
    still = BytesIO()
    drawn[-1].save(still, "PNG", optimize=True)
    while True:
        moving = _gif(drawn)
        if len(moving) <= most or len(drawn) < 4:
            return moving, still.getvalue()
        drawn = drawn[1::2] if len(drawn) % 2 == 0 else drawn[::2]  # the last one stays


def _gif(frames: list[Image.Image]) -> bytes:
    stored, pause = BytesIO(), round(1000 * _SECONDS / len(frames))
    frames[0].save(stored, "GIF", save_all=True, append_images=frames[1:], duration=pause, loop=0)
    return stored.getvalue()


def _palette(signed: bool) -> bytes:
    """The colours of the fields, greys for the words, and one for nothing; 256 in all.

    The same for all frames, and drawn in, not searched for: nothing flickers.
    """
    colours = matplotlib.colormaps["RdBu_r" if signed else "viridis"]
    fields = colours(np.linspace(0, 1, _COLOURS), bytes=True)[:, :3]
    greys = np.repeat(np.linspace(0, 255, _GREYS).round()[:, None], 3, axis=1)
    return np.concatenate([fields, greys, [_NOTHING]]).astype(np.uint8).tobytes()


def _frames(film: Film, times: Int[np.ndarray, " frame"]) -> list[Image.Image]:
    reference = np.abs(next(iter(film.fields.values())))
    top = float(np.quantile(reference[np.isfinite(reference)], _SHOWN)) or 1.0
    low = -top if film.signed else 0.0
    flat = lies_down(film.grid)
    rows, columns = film.grid.shape[-2:]
    across, down = (rows, columns) if flat else (columns, rows)
    # Whole pixels per cell: cells stay cells, and such pictures are small.
    scale = max(1, round(_WIDTH / max(across, down)))
    size = across * scale, down * scale
    # Panels that lie down stand above each other.
    step = (0, size[1] + _TITLE + _GAP) if flat else (size[0] + _GAP, 0)
    more, palette = len(film.fields) - 1, _palette(film.signed)
    width = 2 * _GAP + size[0] + step[0] * more
    height = _TITLE + size[1] + step[1] * more + _FOOT + _GAP
    frames = []
    for t in times:
        corners = [(_GAP + step[0] * i, _TITLE + step[1] * i) for i in range(more + 1)]
        page = _words(film, t * film.grid.dt, (low, top), (width, height), corners)
        for (x, y), values in zip(corners, film.fields.values(), strict=True):
            panel = _panel(values[t].T if flat else values[t][::-1], (low, top), scale)
            page[y : y + size[1], x : x + size[0]] = panel
        frame = Image.fromarray(page)
        frame.putpalette(palette)
        frames.append(frame)
    return frames


def _words(
    film: Film,
    time: float,
    limits: tuple[float, float],
    size: tuple[int, int],
    corners: list[tuple[int, int]],
) -> UInt8[np.ndarray, "y x"]:
    """Titles, time and scale on white, in numbers of the palette."""
    width, height = size
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 13)
    page = Image.new("L", size, 255)
    pen = ImageDraw.Draw(page)
    for label, (x, y) in zip(film.fields, corners, strict=True):
        pen.text((x, y - _TITLE + 5), label, 0, font)
    of_time = film.grid.unit("time")
    moment = f"t = {time:.4g} {of_time if of_time != '1' else ''}"
    pen.text((_GAP, height - _FOOT), moment, 0, font)
    scale = f"{film.name}: {limits[0]:.2g} ... {limits[1]:.2g}"
    wide = pen.textlength(scale, font)
    if wide < width - 2 * _GAP - 110:
        pen.text((width - _GAP - wide, height - _FOOT), scale, 60, font)
    shades = np.asarray(page).astype(float) / 255 * (_GREYS - 1)
    return (_COLOURS + shades.round()).astype(np.uint8)


def _panel(
    values: Float[np.ndarray, "y x"], limits: tuple[float, float], scale: int
) -> UInt8[np.ndarray, "row column"]:
    """A field in numbers of the palette."""
    share = (np.nan_to_num(values) - limits[0]) / (limits[1] - limits[0])
    shown = (share.clip(0, 1) * (_COLOURS - 1)).round()
    shown[~np.isfinite(values)] = _COLOURS + _GREYS
    pixels: np.ndarray = shown.astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
    return pixels
