"""A field on a mesh in a panel: coloured triangles, points in a box, or a line."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.tri import Triangulation

from zopde.mesh import Mesh


def draw_points(
    axes: Any,  # noqa: ANN401 - matplotlib's Axes
    values: Float[np.ndarray, " point"],
    mesh: Mesh,
    limits: tuple[float, float],
    colours: str,
) -> Any:  # noqa: ANN401 - what a colour bar is made from
    """Draw values at the points of a mesh; nothing where they are not finite.

    On a plane its triangles are coloured, those of Delaunay where it has no cells; in space, and on
    a line, the points are. A line has the values upwards, too.
    """
    places = mesh.positions.T.numpy()
    style: dict[str, Any] = {"norm": Normalize(*limits), "cmap": colormaps[colours]}
    finite = np.isfinite(values)
    if len(places) != 2:
        there = (*places, values) if len(places) == 1 else places
        shown = (coordinate[finite] for coordinate in there)
        return axes.scatter(*shown, c=values[finite], s=4, **style)
    axes.set_aspect("equal")
    x, y = places
    triangles = Triangulation(x, y, None if mesh.cells is None else np.array(mesh.cells))
    triangles.set_mask(~finite[triangles.triangles].all(axis=1))
    return axes.tripcolor(triangles, np.where(finite, values, 0.0), shading="gouraud", **style)
