"""One unseen run as VTK files, for programs such as ParaView: a file for each label and time."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Domain
from zopde.errors import InputError
from zopde.files import replacing, write_text
from zopde.grid import Grid
from zopde.mesh import AXES, Mesh
from zopde.report.spectrum import LETTERS, vector_channels

_CELLS = ("line", "quad", "hexahedron")  # of a grid, by the number of its axes
_ROUND = ((0, 0), (0, 1), (1, 1), (1, 0))  # the corners of a quad, one beside the next
_TURNED = (4, 5, 6, 7, 0, 1, 2, 3)  # a hexahedron's corners, the upper ones first


def check_meshio() -> Any:  # noqa: ANN401 - of a library without types
    """The package that writes the files; it is in no plain installation."""
    try:
        import meshio
    except ImportError as error:
        expected, remedy = "the package `meshio`", "install it: pip install meshio"
        raise InputError("vtk", got="no meshio", expected=expected, remedy=remedy) from error
    return meshio


def save_vtk(folder: Path, states: Mapping[str, Tensor], grid: Domain) -> list[Path]:
    """Write the states of one run by every label.

    A grid is its cells with fluid, a mesh its points with their triangles or tetrahedra. x, y and z
    are the dims of these names; of others the last one is x. A vector has its components along x, y
    and z, and a channel its own name.

    Args:
        folder: Where they go: <label>.pvd, a series of the files <label>/<step>.vtu.
        states: Label -> (time, channel, *space).
        grid: Where they live.

    Returns:
        The series.
    """
    meshio, at_points = check_meshio(), isinstance(grid, Mesh)
    if isinstance(grid, Grid):
        points, kind, cells = _of_grid(grid)
    else:
        assert isinstance(grid, Mesh)
        points, kind, cells = _of_mesh(grid)
    series = []
    for label, whole in states.items():
        times = []
        for step, values in enumerate(grid.fluid_values(whole).reshape(*whole.shape[:2], -1)):
            fields = _fields(values.cpu().numpy(), grid)
            held = fields if at_points else {name: [field] for name, field in fields.items()}
            file = folder / label / f"{step:04}.vtu"
            mesh = meshio.Mesh(
                points, [(kind, cells)], **{"point_data" if at_points else "cell_data": held}
            )
            with replacing(file, durable=False) as partial:
                meshio.write(partial, mesh, file_format="vtu")
            times.append(f'<DataSet timestep="{step * grid.dt:.12g}" file="{label}/{file.name}"/>')
        series.append(folder / f"{label}.pvd")
        listed = "\n".join(times)
        kind_of_file = '<VTKFile type="Collection" version="0.1">'
        write_text(series[-1], f"{kind_of_file}<Collection>\n{listed}\n</Collection></VTKFile>\n")
    return series


def _axes(grid: Domain) -> list[int]:
    """Which of x, y and z each dim of a grid, or axis of a mesh, is."""
    if isinstance(grid, Mesh):
        return list(range(grid.positions.shape[1]))
    if set(grid.dims) <= set(AXES):
        return [AXES.index(dim) for dim in grid.dims]
    return list(reversed(range(len(grid.dims))))


def _in_space(places: np.ndarray, axes: list[int]) -> Float[np.ndarray, "point 3"]:
    points = np.zeros((len(places), len(AXES)))
    points[:, axes] = places
    return points


def _of_grid(grid: Grid) -> tuple[np.ndarray, str, np.ndarray]:
    """The corners of all cells, and the numbers of those of each cell with fluid."""
    count = len(grid.shape)
    if count > len(_CELLS):
        raise InputError("vtk", got=f"a grid of {count} axes", expected="1 to 3")
    edges = np.meshgrid(*map(grid.edges, range(count)), indexing="ij")
    points = _in_space(np.stack(edges, axis=-1).reshape(-1, count), _axes(grid))
    numbers = np.arange(len(points)).reshape(edges[0].shape)
    quads = _ROUND if count > 1 else ((0,), (1,))
    corners = [(*up, *quad) for up in product((0, 1), repeat=max(count - 2, 0)) for quad in quads]
    ends = [
        numbers[tuple(slice(o, o + n) for o, n in zip(corner, grid.shape, strict=True))].ravel()
        for corner in corners
    ]
    cells = np.stack(ends, axis=1)
    if grid.fluid is not None:
        cells = cells[grid.fluid.flatten().numpy()]
    if count == 3 and np.linalg.det(points[cells[0, [1, 3, 4]]] - points[cells[0, 0]]) < 0:
        cells = cells[:, _TURNED]  # axes in another order, or one that descends
    return points, _CELLS[count - 1], cells


def _of_mesh(mesh: Mesh) -> tuple[np.ndarray, str, np.ndarray]:
    """The points, and their cells, or each point by itself."""
    points = _in_space(mesh.positions.numpy(), _axes(mesh))
    if mesh.cells is None:
        return points, "vertex", np.arange(len(points))[:, None]
    cells = np.array(mesh.cells)
    return points, {3: "triangle", 4: "tetra"}[cells.shape[1]], cells


def _fields(values: Float[np.ndarray, "channel cell"], grid: Domain) -> dict[str, np.ndarray]:
    """What a file calls each channel; components of one vector in one field, along x, y, z."""
    chosen = vector_channels(grid)
    names = [grid.channels[i] for i in chosen]
    axis_of = dict(zip(LETTERS, range(3), strict=True)) | dict(zip(AXES, range(3), strict=True))
    if isinstance(grid, Grid):
        axis_of |= dict(zip(grid.dims, _axes(grid), strict=True))
    along = [axis_of.get(name.rpartition("_")[2], -1) for name in names]
    if len(chosen) == 1 or -1 in along or len(set(along)) < len(along):
        chosen = []  # of no axes that are known
    fields = {n: values[i] for i, n in enumerate(grid.channels) if i not in chosen}
    if chosen:
        stem, *others = {name.rpartition("_")[0] for name in names}
        whole = "_".join(names) if others or not stem or stem in fields else stem
        fields[whole] = _in_space(values[chosen].T, along)
    return fields
