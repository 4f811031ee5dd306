"""One field in one panel: the right way round, in physical units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from zopde.grid import Grid

# Where there is nothing to show: an obstacle, or a run that diverged.
_NOTHING = "#bbbbbb"
# A domain longer than this along y is drawn lying down.
_LONG = 1.5


def lies_down(grid: Grid) -> bool:
    """Whether the grid is so much longer along y that y is drawn from left to right."""
    return grid.extent[-2] > _LONG * grid.extent[-1]


def width_to_height(grid: Grid) -> float:
    """Of a panel."""
    ratio = grid.extent[-1] / grid.extent[-2]
    return 1 / ratio if lies_down(grid) else ratio


def draw(
    axes: Any,  # noqa: ANN401 - matplotlib's Axes
    values: Float[np.ndarray, "y x"],
    grid: Grid,
    limits: tuple[float, float],
    colours: str,
) -> Any:  # noqa: ANN401 - what a colour bar is made from
    """Draw (y, x) values; grey where they are not finite."""
    height, width = grid.extent[-2:]
    size: tuple[float, ...] = (0, width, 0, height)
    origin = "lower"
    if lies_down(grid):
        # Turned, not mirrored, x pointing down: vortices keep their sense.
        values, size, origin = values.T, (0, height, width, 0), "upper"
    colour_map = matplotlib.colormaps[colours].with_extremes(bad=_NOTHING)
    shown = np.ma.masked_invalid(values)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(
        shown, origin=origin, extent=size, vmin=limits[0], vmax=limits[1], cmap=colour_map
    )


def label_axes(axes: Any, grid: Grid) -> None:  # noqa: ANN401
    """Names, units and the ends of both axes."""
    names, ends = list(grid.dims[-1:-3:-1]), list(grid.extent[-1:-3:-1])
    if lies_down(grid):
        names, ends = names[::-1], ends[::-1]
    for name, end, axis in zip(names, ends, (axes.xaxis, axes.yaxis), strict=True):
        axis.set_ticks([0, end / 2, end])
        axis.set_tick_params(labelsize=8)
        axis.set_label_text(f"{name} [{unit(grid, 'space')}]", fontsize=8)


def unit(grid: Grid, name: str) -> str:
    """For the label of an axis."""
    found = grid.unit(name)
    return "-" if found == "1" else found


def moment(grid: Grid, step: int, run: int) -> str:
    """Which unseen run, and when."""
    of_time = f" {grid.unit('time')}" if grid.unit("time") != "1" else ""
    return f"Unseen run {run + 1} after {step} steps (t = {step * grid.dt:g}{of_time})"


class _Short(LogFormatter):
    """Says where a label fits as its base does, and writes the number out."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:.3g}" if super().__call__(x, pos) else ""


def short_ticks(axes: Any) -> None:  # noqa: ANN401
    """Between the powers of ten of logarithmic axes, labels that do not run into each other."""
    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            axis.set_minor_formatter(_Short(minor_thresholds=(1, 0.4)))
            axis.set_tick_params(which="minor", labelsize=7)


def save(figure: Figure, path: Path) -> None:
    """As PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=150)
    partial.replace(path)
