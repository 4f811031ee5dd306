"""What all pictures share: colours, axes, ticks, a field in a panel, how a picture is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from torch import Tensor

from zopde.contracts import Domain
from zopde.files import replacing
from zopde.grid import Grid
from zopde.mesh import AXES, Mesh
from zopde.report.on_mesh import draw_points

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


@dataclass(frozen=True)
class Plane:
    """The two axes of a panel, in the order of what it shows: upwards, then to the right."""

    names: tuple[str, str]
    units: tuple[str, str]
    extent: tuple[float, float]
    alike: bool = True  # whether both are lengths; else a panel is square
    where: str = ""  # which plane of a box it is
    fluid: np.ndarray | bool = True  # where there is something to see, on a grid with a mask
    mesh: Mesh | None = None  # whose points are shown in place of cells

    @property
    def lies_down(self) -> bool:
        """Whether the first axis is so much longer that it is drawn from left to right."""
        longer = self.alike and self.extent[0] > _LONG * self.extent[1]
        return longer and self.mesh is None

    @property
    def width_to_height(self) -> float:
        """Of a panel."""
        ratio = self.extent[1] / self.extent[0] if self.alike else 1.0
        return 1 / ratio if self.lies_down else ratio


def plane_of(grid: Domain, steps: int = 0) -> Plane:
    """What pictures of a domain show: space and time of a line, a plane itself, a plane of a box.

    Of a mesh they show all points.
    """
    space = unit(grid, "space")
    if isinstance(grid, Mesh):
        sides = (grid.positions.amax(dim=0) - grid.positions.amin(dim=0)).tolist()
        extent = (sides[1], sides[0]) if len(sides) == 2 else (1.0, 1.0)
        return Plane(("y", "x"), (space, space), extent, mesh=grid)
    assert isinstance(grid, Grid)
    fluid = grid.fluid is None or mid_plane(grid.fluid, grid).numpy()
    if len(grid.shape) == 1:
        names, units = ("time", grid.dims[0]), (unit(grid, "time"), space)
        return Plane(names, units, (steps * grid.dt, grid.extent[0]), alike=False, fluid=fluid)
    up, right = _kept(grid)
    middle = {a: (grid.shape[a] // 2 + 0.5) * grid.spacing[a] for a in range(len(grid.shape))}
    of_space = "" if space == "-" else f" {space}"
    cuts = [f"{grid.dims[a]} = {middle[a]:.3g}{of_space}" for a in middle if a not in (up, right)]
    names, extent = (grid.dims[up], grid.dims[right]), (grid.extent[up], grid.extent[right])
    return Plane(names, (space, space), extent, where=", ".join(cuts), fluid=fluid)


def mid_plane(values: Tensor, grid: Domain) -> Tensor:
    """(*batch, *space) -> (*batch, a, b): the plane of `plane_of`; any other domain stays."""
    if not isinstance(grid, Grid):
        return values
    kept = _kept(grid)
    at = (slice(None) if a in kept else n // 2 for a, n in enumerate(grid.shape))
    return values[(..., *at)]


def _kept(grid: Grid) -> list[int]:
    """The two longest dimensions; of equal ones the last."""
    dims = range(len(grid.shape))
    return sorted(sorted(dims, key=lambda a: (grid.extent[a], a))[-2:])


def field_panels(
    plane: Plane, rows: int, columns: int, bar_below: bool = False
) -> tuple[Figure, Any]:
    """A figure with panels (row, column) of the plane's proportions and room for a colour bar."""
    width = 3.2 if plane.lies_down else 2.1
    height = width / plane.width_to_height + 0.25
    right, below = (0.1, 1.1) if bar_below else (0.9, 0.4)
    figure = Figure((width * columns + right, height * rows + below), layout="compressed")
    deep = plane.mesh is not None and plane.mesh.positions.shape[1] == 3
    subplots: dict[str, Any] = {"subplot_kw": {"projection": "3d"}} if deep else {}
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def draw(
    axes: Any,  # noqa: ANN401 - matplotlib's Axes
    values: Float[np.ndarray, "a b"],
    plane: Plane,
    limits: tuple[float, float],
    colours: str,
) -> Any:  # noqa: ANN401 - what a colour bar is made from
    """Draw values on a plane; grey where they are not finite."""
    if plane.mesh is not None:
        axes.set(xticks=[], yticks=[])
        return draw_points(axes, values, plane.mesh, limits, colours)
    height, width = plane.extent
    flat = plane.lies_down
    # A row of cells ends at their edges, a row of a time half a step later.
    edge = 0.0 if plane.alike else height / max(len(values) - 1, 1) / 2
    axes.set(xticks=[], yticks=[])
    return axes.imshow(
        pixels_of(values, plane),
        origin="upper" if flat else "lower",
        extent=(0, height, width, 0) if flat else (0, width, -edge, height + edge),
        aspect=1.0 if plane.alike else width / (height + 2 * edge),
        norm=Normalize(*limits),
        cmap=colormaps[colours].with_extremes(bad=_NOTHING),
    )


def pixels_of(values: Float[np.ndarray, "a b"], plane: Plane) -> np.ma.MaskedArray[Any, Any]:
    """Values as `draw` shows them: masked on land, or not finite; turned if the plane lies down.

    Turned, not mirrored, x pointing down: vortices keep their sense.
    """
    values = np.where(plane.fluid, values, np.nan)
    return np.ma.masked_invalid(values.T if plane.lies_down else values)


def label_axes(axes: Any, plane: Plane) -> None:  # noqa: ANN401
    """Names, units and the ends of both axes."""
    if plane.mesh is not None:
        names = (f"{name} [{plane.units[0]}]" for name in AXES)
        axes.set(**dict(zip(("xlabel", "ylabel"), names, strict=False)))
        return
    order = (0, 1) if plane.lies_down else (1, 0)
    for i, axis in zip(order, (axes.xaxis, axes.yaxis), strict=True):
        axis.set_ticks([0, plane.extent[i] / 2, plane.extent[i]])
        axis.set_tick_params(labelsize=8)
        axis.set_label_text(f"{plane.names[i]} [{plane.units[i]}]", fontsize=8)


def unit(grid: Domain, name: str) -> str:
    """For the label of an axis."""
    declared = grid.unit(name)
    return "-" if declared == "1" else declared


def time_of(grid: Domain, step: int) -> str:
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
