"""VTK files of a run, read back by the library that ParaView's readers are compared with."""

import math
import re
import sys

import numpy as np
import pytest
import torch

from zopde import Grid, InputError, Mesh
from zopde.report.vtk import save_vtk

meshio = pytest.importorskip("meshio")


def states_on(domain, times=2):
    gen = torch.Generator().manual_seed(0)
    return torch.rand(times, *domain.state_shape, generator=gen)


def written(tmp_path, domain, states=None):
    """What is read of the last time of one label."""
    states = states_on(domain) if states is None else states
    (series,) = save_vtk(tmp_path, {"NON": states}, domain)
    files = re.findall(r'file="(.*?)"', series.read_text())
    assert [len(files), series.name] == [len(states), "NON.pvd"]
    return meshio.read(tmp_path / files[-1])


def volumes(mesh):
    """Signed volumes of hexahedra, by the three edges at the first corner."""
    corners = mesh.points[mesh.cells[0].data]
    return np.linalg.det(corners[:, [1, 3, 4]] - corners[:, :1])


CUBE = (
    *((3, 4, 5), (3.0, 2.0, 10.0), 0.1),
    ("pressure", "velocity_z", "velocity_y", "velocity_x"),
)


def test_a_box_has_its_cells_scalars_and_vectors_golden(tmp_path):
    grid = Grid(*CUBE)
    states = states_on(grid)
    mesh = written(tmp_path, grid, states)
    assert (mesh.cells[0].type, mesh.points.shape) == ("hexahedron", (4 * 5 * 6, 3))
    np.testing.assert_allclose(volumes(mesh), 1.0 * 0.5 * 2.0)
    centres = mesh.points[mesh.cells[0].data].mean(axis=1)  # x, y, z
    own = np.meshgrid(*map(grid.centres, range(3)), indexing="ij")
    np.testing.assert_allclose(centres.T[::-1], [axis.ravel() for axis in own])
    assert set(mesh.cell_data) == {"pressure", "velocity"}
    (pressure,), (velocity,) = mesh.cell_data["pressure"], mesh.cell_data["velocity"]
    np.testing.assert_array_equal(pressure, states[-1, 0].flatten().numpy())
    np.testing.assert_array_equal(velocity, states[-1, [3, 2, 1]].flatten(1).T.numpy())


@pytest.mark.parametrize("dims", [("x", "y", "z"), ("y", "z", "x"), ("level", "lat", "lon")])
def test_axes_go_by_their_names_and_no_cell_is_turned_inside_out_bounds(tmp_path, dims):
    falling = {dims[1]: [1.75, 1.25, 0.75, 0.25]}
    grid = Grid(*CUBE[:3], ("a",), dims=dims, coordinates=falling)
    states = states_on(grid)
    mesh = written(tmp_path, grid, states)
    assert (volumes(mesh) > 0).all()
    axes = ["xyz".index(dim) for dim in dims] if "x" in dims else [2, 1, 0]
    last = mesh.points[mesh.cells[0].data[-1]].mean(axis=0)
    np.testing.assert_allclose(last[axes], [2.5, 0.25, 9.0])
    assert mesh.cell_data["a"][0][-1] == states[-1, 0, -1, -1, -1]


def test_land_has_no_cells_and_what_diverged_stays_so(tmp_path):
    mask = np.ones((3, 4), dtype=bool)
    mask[1, 2] = False
    grid = Grid((3, 4), (3.0, 4.0), 0.1, ("eta", "u", "v"), dims=("lat", "lon"), mask=mask)
    states = states_on(grid)
    states[-1, 1, 0, 0] = torch.nan
    mesh = written(tmp_path, grid, states)
    assert [block.type for block in mesh.cells] == ["quad"]
    vector = mesh.cell_data["u_v"][0]
    expected = states[-1][:, torch.tensor(mask)].numpy()
    np.testing.assert_array_equal(vector.T, [*expected[1:], 0 * expected[0]])
    np.testing.assert_array_equal(mesh.cell_data["eta"][0], expected[0])


def test_a_line(tmp_path):
    mesh = written(tmp_path, Grid((5,), (10.0,), 0.1, ("u",)))
    assert mesh.cells[0].data.tolist() == [[i, i + 1] for i in range(5)]
    np.testing.assert_array_equal(mesh.points[:, 0], np.arange(6) * 2.0)


PLACES = {1: [[0], [1], [3]], 2: [[0, 0], [1, 0], [0, 1]], 3: [[0] * 3, *np.eye(3).tolist()]}


@pytest.mark.parametrize(
    ("axes", "cells", "kind"),
    [(1, None, "vertex"), (2, [[0, 1, 2]], "triangle"), (3, [[0, 1, 2, 3]], "tetra")],
)
def test_a_mesh_has_its_points_and_cells(tmp_path, axes, cells, kind):
    names = ("heat", *(f"velocity_{axis}" for axis in "xyz"[:axes]))
    domain = Mesh(PLACES[axes], 0.1, names, cells=cells)
    states = states_on(domain)
    mesh = written(tmp_path, domain, states)
    np.testing.assert_array_equal(mesh.points[:, :axes], PLACES[axes])
    assert mesh.cells[0].type == kind
    assert mesh.cells[0].data.tolist() == (cells or [[0], [1], [2]])
    np.testing.assert_array_equal(mesh.point_data["heat"], states[-1, 0].numpy())
    if axes > 1:
        velocity = mesh.point_data["velocity"]
        np.testing.assert_array_equal(velocity[:, :axes], states[-1, 1:].T.numpy())


def test_channels_of_one_unit_that_are_no_components_stay_apart(tmp_path):
    grid = Grid((2, 2), (1.0, 1.0), 0.1, ("hot", "cold"), units={"hot": "K", "cold": "K"})
    assert set(written(tmp_path, grid).cell_data) == {"hot", "cold"}


def test_a_series_names_the_times(tmp_path):
    grid = Grid((2,), (1.0,), 0.1, ("u",))
    series, _ = save_vtk(tmp_path, {"reference": states_on(grid, 4), "SRC": states_on(grid)}, grid)
    times = [float(t) for t in re.findall(r'timestep="(.*?)"', series.read_text())]
    assert all(math.isclose(t, 0.1 * i) for i, t in enumerate(times))
    assert len(times) == len(list((tmp_path / "reference").glob("*.vtu"))) == 4


def test_without_the_package_one_line_names_the_command_raises(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "meshio", None)
    grid = Grid((2,), (1.0,), 0.1, ("u",))
    line = r"expected the package `meshio`; install it: pip install meshio"
    with pytest.raises(InputError, match=line):
        save_vtk(tmp_path, {"SRC": states_on(grid)}, grid)
