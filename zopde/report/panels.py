"""What all pictures share: colours, axes, ticks, a field in a panel, how a picture is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from zopde.files import replacing
from zopde.grid import Grid

# One colour per label in every picture; chosen to stay apart for colour-blind readers.
COLOURS = {
    "reference": "#000000",
    "SRC": "#555555",
    "NON": "#E69F00",
    "NOG": "#009E73",
    "ID": "#882255",
    "ZO-weights": "#0072B2",
    "ZO-weights-scratch": "#56B4E9",
    "ZO-interface": "#D55E00",
    "SOL": "#CC79A7",
    "FO": "#555555",
    "FO-sparse-gradient": "#009E73",
    "FO-sparse-weights": "#E69F00",
    "CGE": "#56B4E9",
    "RGE": "#CC79A7",
    "DeepZero": "#0072B2",
    "none": "#999999",
    "MSE": "#555555",
    "AE-MSE": "#BBBBBB",
    "FO-DS": "#009E73",
    "FO-AE-DS": "#F0C000",
    "ZO-DS": "#56B4E9",
    "ZO-AE-DS-RGE": "#E69F00",
    "ZO-AE-DS-CGE": "#CC79A7",
}
_NOTHING = "#bbbbbb"  # an obstacle, or a run that diverged
_LONG = 1.5  # a domain longer than this along y is drawn lying down


def one_plot(width: float = 7.0, xlabel: str = "", ylabel: str = "") -> tuple[Figure, Any]:
    """A figure with one pair of axes, and the axes."""
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    return figure, axes


def cost_plots(ylabel: str, height: float = 4.0, log_y: bool = False) -> tuple[Figure, Any]:
    """A figure with two logarithmic axes side by side, for queries and for seconds, and these."""
    figure = Figure(figsize=(9.0, height), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, ("queries of the loss", "seconds of training"), strict=True):
        axes.set(xscale="log", yscale="log" if log_y else "linear", xlabel=name)
        axes.grid(alpha=0.25)
        short_ticks(axes)
    panels[0].set_ylabel(ylabel)
    return figure, panels


def field_panels(
    grid: Grid, rows: int, columns: int, bar_below: bool = False
) -> tuple[Figure, Any]:
    """A figure with panels (row, column) of the grid's proportions and room for a colour bar."""
    width = 3.2 if lies_down(grid) else 2.1
    height = width / width_to_height(grid) + 0.25
    right, below = (0.1, 1.1) if bar_below else (0.9, 0.4)
    figure = Figure((width * columns + right, height * rows + below), layout="compressed")
    return figure, figure.subplots(rows, columns, squeeze=False)


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
    flat = lies_down(grid)
    axes.set(xticks=[], yticks=[])
    return axes.imshow(
        pixels_of(values, grid),
        origin="upper" if flat else "lower",
        extent=(0, height, width, 0) if flat else (0, width, 0, height),
        norm=Normalize(*limits),
        cmap=colormaps[colours].with_extremes(bad=_NOTHING),
    )


def pixels_of(values: Float[np.ndarray, "y x"], grid: Grid) -> np.ma.MaskedArray[Any, Any]:
    """Values as `draw` shows them: masked on land, or not finite; turned on a grid that lies down.

    Turned, not mirrored, x pointing down: vortices keep their sense.
    """
    if grid.fluid is not None:
        values = np.where(grid.fluid.numpy(), values, np.nan)
    return np.ma.masked_invalid(values.T if lies_down(grid) else values)


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
    declared = grid.unit(name)
    return "-" if declared == "1" else declared


def time_of(grid: Grid, step: int) -> str:
    """When a step ends, for a title."""
    of_time = f" {grid.unit('time')}" if grid.unit("time") != "1" else ""
    return f"t = {step * grid.dt:.4g}{of_time}"


class _ShortLabels(LogFormatter):
    """Says where a label fits as its base does, and writes the number out."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:.3g}" if super().__call__(x, pos) else ""


def short_ticks(axes: Any) -> None:  # noqa: ANN401
    """Between the powers of ten of logarithmic axes, labels that do not run into each other."""
    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            axis.set_minor_formatter(_ShortLabels(minor_thresholds=(1, 0.4)))
            axis.set_tick_params(which="minor", labelsize=7)


def legend(owner: Any, **more: Any) -> None:  # noqa: ANN401 - of matplotlib's Axes or a Figure
    """A legend without a frame."""
    owner.legend(frameon=False, **{"fontsize": 9, **more})


def save(figure: Figure, path: Path) -> None:
    """As PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    with replacing(path, durable=False) as partial:
        figure.savefig(partial, format="png", dpi=150)
