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
    values = np.ma.masked_invalid(values)
    if len(places) != 2:
        heights = () if len(places) == 3 else (values,)
        return axes.scatter(*places, *heights, c=values, s=4, **style)
    axes.set_aspect("equal")
    x, y = places
    triangles = Triangulation(x, y, None if mesh.cells is None else np.array(mesh.cells))
    bad = np.ma.getmaskarray(values)
    triangles.set_mask(bad[triangles.triangles].any(axis=1))
    return axes.tripcolor(triangles, values.filled(0.0), shading="gouraud", **style)
