import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from zopde import Grid
from zopde.report.curves import Curve, save_error_over_time
from zopde.report.fields import save_fields, save_vorticity
from zopde.report.panels import draw, label_axes, lies_down, width_to_height

GRID = Grid((4, 4), (1.0, 1.0), 0.1, ("v", "u"))
LONG = Grid((8, 4), (200.0, 100.0), 1.0, ("v", "u"), units={"space": "m"})
PNG = b"\x89PNG\r\n\x1a\n"


def test_error_over_time_also_with_a_diverged_label(tmp_path):
    curves = [
        Curve("SRC", np.linspace(0, 1, 5), np.full(5, 0.1)),
        Curve("mine", np.array([0.1, np.inf, np.nan, np.nan, np.nan]), np.full(5, np.nan)),
    ]
    save_error_over_time(tmp_path / "error.png", curves, GRID)
    assert (tmp_path / "error.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("grid", [GRID, LONG], ids=["square", "long"])
def test_fields_also_with_a_diverged_label(tmp_path, grid):
    states = {
        "reference": torch.randn(grid.state_shape),
        "SRC": torch.randn(grid.state_shape),
        "mine": torch.full(grid.state_shape, float("nan")),
        "huge": torch.full(grid.state_shape, 1e30),
    }
    save_fields(tmp_path / "fields.png", states, grid, 10)
    assert (tmp_path / "fields.png").read_bytes().startswith(PNG)


def test_vorticity_also_with_a_diverged_label_and_where_there_is_no_fluid(tmp_path):
    reference = torch.randn(8, 4)
    reference[2, 2] = float("nan")
    fields = {"reference": reference, "mine": torch.full((8, 4), float("nan"))}
    save_vorticity(tmp_path / "vorticity.png", fields, LONG, 10, 2)
    assert (tmp_path / "vorticity.png").read_bytes().startswith(PNG)


def test_a_long_domain_lies_down_and_keeps_its_handedness_exact():
    """A cell at large y and large x is drawn to the right and below: turned, not mirrored."""
    values = np.zeros((8, 4))
    values[6, 3] = 1.0
    axes = Figure().add_subplot()
    image = draw(axes, values, LONG, (0, 1), "viridis")
    label_axes(axes, LONG)
    assert lies_down(LONG)
    assert width_to_height(LONG) == 2
    assert image.get_extent() == [0, 200, 100, 0]
    assert image.get_array()[3, 6] == 1
    assert image.origin == "upper"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("y [m]", "x [m]")
    assert axes.get_ylim() == (100, 0)


def test_a_square_domain_stands_exact():
    axes = Figure().add_subplot()
    image = draw(axes, np.eye(4), GRID, (0, 1), "viridis")
    label_axes(axes, GRID)
    assert not lies_down(GRID)
    assert image.get_extent() == [0, 1, 0, 1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x [-]", "y [-]")
