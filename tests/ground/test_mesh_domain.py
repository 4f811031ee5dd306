"""A mesh: what it is made of, what it derives, and what it refuses."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy.spatial import Delaunay

from zopde import Grid, InputError, Mesh
from zopde.contracts import Domain

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
HALVES = [[0, 1, 2], [0, 2, 3]]


def mesh(points=SQUARE, **parts):
    return Mesh(points, 0.1, ("u",), **parts)


def test_a_square_of_two_triangles():
    square = mesh(cells=HALVES, units={"u": "K", "space": "m"})
    assert square.shape == (4,)
    assert square.state_shape == (1, 4)
    assert square.neighbours == ((0, 1), (0, 2), (0, 3), (1, 2), (2, 3))
    assert sorted(map(tuple, square.edges.tolist())) == sorted(
        [*square.neighbours, *((b, a) for a, b in square.neighbours)]
    )
    assert square.weights == pytest.approx((1 / 3, 1 / 6, 1 / 3, 1 / 6))  # a third of each triangle
    assert float(square.cell_weights.mean()) == pytest.approx(1)
    assert square.unit("u") == "K"
    assert square.unit("time") == "1"


def test_lumped_mass_of_tetrahedra_and_of_a_surface_is_their_volume_and_area():
    points = np.random.default_rng(0).random((40, 3))
    cells = Delaunay(points).simplices
    sides = points[cells[:, 1:]] - points[cells[:, :1]]
    keep = np.abs(np.linalg.det(sides)) > 1e-6
    kept = np.unique(cells[keep])
    cells = np.searchsorted(kept, cells[keep])
    volume = np.abs(np.linalg.det(sides[keep])).sum() / 6
    assert sum(mesh(points[kept], cells=cells).weights) == pytest.approx(volume)
    tilted = np.c_[SQUARE, SQUARE[:, 0]]  # the square on a slope of one
    assert sum(mesh(tilted, cells=HALVES).weights) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(("axes", "least"), [(1, 2), (2, 6), (3, 12)])
def test_without_cells_the_nearest_points_are_neighbours(axes, least):
    points = np.random.default_rng(1).random((60, axes))
    cloud = mesh(points)
    away = np.linalg.norm(points[:, None] - points, axis=2)
    for point in range(60):
        near = set(np.argsort(away[point])[1 : least + 1].tolist())
        found = {b for a, b in cloud.edges.tolist() if a == point}
        assert near <= found
    assert cloud.cell_weights is None


def test_equal_meshes_are_equal_and_a_pickle_keeps_all():
    one, other = mesh(cells=HALVES), mesh(SQUARE.tolist(), cells=np.array(HALVES))
    assert one == other
    _ = one.edges, one.positions
    assert pickle.loads(pickle.dumps(one)) == other
    assert one != mesh(SQUARE * 2, cells=HALVES)
    assert one != mesh(cells=[[0, 1, 3], [1, 2, 3]])


def test_a_mesh_offers_all_that_a_grid_offers_of_a_domain():
    square, grid = mesh(cells=HALVES), Grid((2, 2), (1.0, 1.0), 0.1, ("u",))
    for name in (n for n in vars(Domain) if not n.startswith("_")):
        assert hasattr(square, name) == hasattr(grid, name) is True, name
    values = torch.rand(3, 1, 4)
    assert square.filled(values) is square.fluid_values(values) is values
    assert square.places.T.tolist() == SQUARE.tolist()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"cells": [[0, 1, 9], [0, 2, 3]]}, "row 0: [0, 1, 9]"),
        ({"cells": [[0, 1, -1]]}, "row 0: [0, 1, -1]"),
        ({"cells": [[0, 1, 1], [0, 2, 3]]}, "different numbers"),
        ({"cells": [[0, 1], [1, 2]]}, "rows of 2"),
        ({"cells": [[0, 1, 2]]}, "point 3 in none of them"),
        ({"cells": [[0.0, 1.0, 2.0]]}, "an array"),
        ({"neighbours": [[0, 1], [1, 2]]}, "point 3 in none of them"),
        ({"neighbours": [[0, 1, 2]]}, "rows of 3"),
        ({"weights": [1.0, 2.0]}, "shape (2,)"),
        ({"weights": [1.0, 2.0, 0.0, 1.0]}, "not all positive"),
        ({"points": [[0.0, 0.0]]}, "1 points"),
        ({"points": [0.0, 1.0]}, "an array"),
        ({"points": [*SQUARE, [0.0, 0.0]]}, "at one place"),
        ({"points": [*SQUARE, [np.nan, 0.0]]}, "not finite"),
        ({"points": [[0, 0], [1, 0], [2, 0], [0, 1]], "cells": [[0, 1, 2], [0, 1, 3]]}, "cell 0"),
        ({"points": [[0, 0], [0.1, 0.1], [0.3, 0.3]], "cells": [[0, 1, 2]]}, "cell 0"),
        ({"points": np.outer([0, 0.1, 0.3], [1, 0.3, 0.7]), "cells": [[0, 1, 2]]}, "[0, 1, 2]"),
        ({"units": {"v": "K"}}, "mesh unit of"),
        ({"forcing_channels": ("q", "q")}, "each once"),
    ],
)
def test_bad_meshes_are_refused_in_one_line(parts, words):
    with pytest.raises(InputError) as caught:
        mesh(**parts)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
