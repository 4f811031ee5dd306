"""What all pictures share: colours, axes, ticks, a field in a panel, how a picture is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from torch import Tensor

from zopde.contracts import Domain
from zopde.files import write_bytes
from zopde.grid import Grid
from zopde.mesh import AXES, Mesh
from zopde.report.on_mesh import draw_points

# One colour per label in every picture; chosen to stay apart for colour-blind readers.
COLOURS = {
    "reference": "#000000",
    "SRC": "#555555",
    "NON": "#E69F00",
    "NOG": "#009E73",
    "PUSH": "#117733",
    "ID": "#882255",
    "EMU": "#44AA99",
    "CV": "#661100",
    "FG": "#AA4499",
    "ES": "#6699CC",
    "EKI": "#999933",
    "ETKI": "#332288",
    "ZO-weights": "#0072B2",
    "ZO-weights-scratch": "#56B4E9",
    "ZO-interface": "#D55E00",
    "ZO-coloured": "#EE7733",
    "ZO-regressed": "#CC3311",
    "ZO-dense": "#AA7744",
    "ZO-bank": "#004488",
    "ZO-tangent": "#EE3377",
    "ZO-random": "#DDAA33",
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
    "ZO-AE-DS-V": "#AA4499",
    "SUR-DS": "#EE7733",
    "SUR-AE-DS": "#D55E00",
    "KD-AE-DS": "#882255",
}
_NOTHING = "#bbbbbb"  # an obstacle, or a run that diverged
_LAND = "#888888"
_LONG = 1.5  # a domain longer than this along y is drawn lying down
_FAR = 20.0  # one whose axes differ by more is not drawn to one scale
_PIXELS = 2000  # along an axis with cells of different sizes, at most


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
    start: tuple[float, float] = (0.0, 0.0)
    # Which cell each pixel of an axis shows, where not one each in their order
    pixels: tuple[Any, Any] = (slice(None), slice(None))
    alike: bool = True  # whether both are drawn to one scale; else a panel is square
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

    @property
    def is_wide(self) -> bool:
        """Whether panels are better stacked than in a row."""
        return self.width_to_height > _LONG


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
        extent, start = (steps * grid.dt, grid.extent[0]), (0.0, min(grid.edges(0)))
        pixels = slice(None), _pixels(grid, 0)
        return Plane(names, units, extent, start, pixels, alike=False, fluid=fluid)
    up, right = _kept(grid)
    middle = {a: grid.centres(a)[n // 2] for a, n in enumerate(grid.shape)}
    of_space = "" if space == "-" else f" {space}"
    cuts = [f"{grid.dims[a]} = {middle[a]:.3g}{of_space}" for a in middle if a not in (up, right)]
    names, extent = (grid.dims[up], grid.dims[right]), (grid.extent[up], grid.extent[right])
    start = min(grid.edges(up)), min(grid.edges(right))
    pixels = _pixels(grid, up), _pixels(grid, right)
    alike = 1 / _FAR <= extent[1] / extent[0] <= _FAR
    return Plane(names, (space, space), extent, start, pixels, alike, ", ".join(cuts), fluid)


def _pixels(grid: Grid, axis: int) -> Any:  # noqa: ANN401 - what indexes an axis
    """Which cell each pixel of an axis shows: pixels are alike, and ascend."""
    edges, extent = np.array(grid.edges(axis)), grid.extent[axis]
    turned = slice(None, None, -1 if edges[0] > edges[-1] else 1)
    edges = edges[turned]
    if grid.is_uniform(axis):
        return turned
    count = min(_PIXELS, math.ceil(extent / np.diff(edges).min()))
    centres = edges[0] + (np.arange(count) + 0.5) * extent / count
    return np.arange(len(edges) - 1)[turned][np.searchsorted(edges[1:-1], centres)]


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
    width = 2.1 * min(max(plane.width_to_height, 1.0), 5.0) ** 0.5
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
    """Draw values on a plane; land is dark grey, what is not finite elsewhere light grey."""
    if plane.mesh is not None:
        axes.set(xticks=[], yticks=[])
        return draw_points(axes, values, plane.mesh, limits, colours)
    (height, width), (low, left) = plane.extent, plane.start
    flat = plane.lies_down
    # A row of cells ends at their edges, a row of a time half a step later.
    edge = 0.0 if plane.alike else height / max(len(values) - 1, 1) / 2
    bounds = (low, low + height, left + width, left)
    if not flat:
        bounds = (left, left + width, low - edge, low + height + edge)
    where: dict[str, Any] = {
        "origin": "upper" if flat else "lower",
        "extent": bounds,
        "aspect": 1.0 if plane.alike else width / (height + 2 * edge),
    }
    axes.set(xticks=[], yticks=[])
    image = axes.imshow(
        pixels_of(values, plane),
        norm=Normalize(*limits),
        cmap=colormaps[colours].with_extremes(bad=_NOTHING),
        **where,
    )
    if plane.fluid is not True:
        land = np.broadcast_to(np.where(plane.fluid, np.nan, 1.0), values.shape)
        axes.imshow(
            pixels_of(land, replace(plane, fluid=True)), cmap=ListedColormap([_LAND]), **where
        )
    return image


def pixels_of(values: Float[np.ndarray, "a b"], plane: Plane) -> np.ma.MaskedArray[Any, Any]:
    """Values as `draw` shows them: masked on land, or not finite; turned if the plane lies down.

    Turned, not mirrored, x pointing down: vortices keep their sense.
    """
    values = np.where(plane.fluid, values, np.nan)[plane.pixels[0]][:, plane.pixels[1]]
    return np.ma.masked_invalid(values.T if plane.lies_down else values)


def colour_bar(figure: Figure, image: Any, panels: Any, **more: Any) -> None:  # noqa: ANN401
    """A colour bar beside panels, with so few ticks that they do not run into each other."""
    figure.colorbar(image, ax=panels, ticks=MaxNLocator(5), **more)


def label_axes(axes: Any, plane: Plane) -> None:  # noqa: ANN401
    """Names, units and the ends of both axes."""
    if plane.mesh is not None:
        names = (f"{name} [{plane.units[0]}]" for name in AXES)
        axes.set(**dict(zip(("xlabel", "ylabel"), names, strict=False)))
        return
    order = (0, 1) if plane.lies_down else (1, 0)
    for i, axis in zip(order, (axes.xaxis, axes.yaxis), strict=True):
        low, extent = plane.start[i], plane.extent[i]
        axis.set_ticks([low, low + extent / 2, low + extent])
        axis.set_tick_params(labelsize=8)
        axis.set_label_text(f"{plane.names[i]} [{plane.units[i]}]", fontsize=8)


def unit(grid: Domain, name: str) -> str:
    """For the label of an axis."""
    declared = grid.unit(name)
    return "-" if declared == "1" else declared


def time_of(grid: Domain, step: int) -> str:
    """When a step ends, for a title."""
    of_time = f" {grid.unit('time')}" if grid.unit("time") != "1" else ""
    return f"t = {step * grid.dt:.6g}{of_time}"


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


def png_of(figure: Figure) -> bytes:
    """A figure as PNG."""
    FigureCanvasAgg(figure)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def save(figure: Figure, path: Path) -> None:
    """As PNG, whole or not at all."""
    write_bytes(path, png_of(figure), durable=False)
