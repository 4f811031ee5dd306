import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zopde import Grid
from zopde.report.curves import CostCurve, Curve, draw_error_over_time, draw_loss_curves
from zopde.report.fields import draw_fields, draw_vorticity
from zopde.report.panels import draw, label_axes, mid_plane, plane_of, save

GRID = Grid((4, 4), (1.0, 1.0), 0.1, ("v", "u"))
LONG = Grid((8, 4), (200.0, 100.0), 1.0, ("v", "u"), units={"space": "m"})
LINE = Grid((6,), (2.0,), 0.5, ("u",), units={"space": "m", "time": "s"})
BOX = Grid((4, 6, 8), (1.0, 3.0, 2.0), 0.1, ("w", "v", "u"), units={"space": "m"})
PNG = b"\x89PNG\r\n\x1a\n"


def test_error_over_time_also_with_a_diverged_label(tmp_path):
    curves = [
        Curve("SRC", np.linspace(0, 1, 5), np.full(5, 0.1)),
        Curve("mine", np.array([0.1, np.inf, np.nan, np.nan, np.nan]), np.full(5, np.nan)),
    ]
    save(draw_error_over_time(curves, GRID), tmp_path / "error.png")
    assert (tmp_path / "error.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("grid", [GRID, LONG, LINE, BOX], ids=["square", "long", "line", "box"])
def test_fields_also_with_a_diverged_label(tmp_path, grid):
    shape = (5, *grid.state_shape)
    states = {
        "reference": torch.randn(shape),
        "SRC": torch.randn(shape),
        "mine": torch.full(shape, float("nan")),
        "huge": torch.full(shape, 1e30),
    }
    save(draw_fields(states, grid), tmp_path / "fields.png")
    assert (tmp_path / "fields.png").read_bytes().startswith(PNG)


def test_vorticity_also_with_a_diverged_label_and_where_there_is_no_fluid(tmp_path):
    reference = torch.randn(8, 4)
    reference[2, 2] = float("nan")
    fields = {"reference": reference, "mine": torch.full((8, 4), float("nan"))}
    save(draw_vorticity(fields, LONG, 10, 2), tmp_path / "vorticity.png")
    assert (tmp_path / "vorticity.png").read_bytes().startswith(PNG)


def test_a_long_domain_lies_down_and_keeps_its_handedness_exact():
    """A cell at large y and large x is drawn to the right and below: turned, not mirrored."""
    values = np.zeros((8, 4))
    values[6, 3] = 1.0
    axes, plane = Figure().add_subplot(), plane_of(LONG)
    image = draw(axes, values, plane, (0, 1), "viridis")
    label_axes(axes, plane)
    assert plane.lies_down
    assert plane.width_to_height == 2
    assert image.get_extent() == [0, 200, 100, 0]
    assert image.get_array()[3, 6] == 1
    assert image.origin == "upper"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("y [m]", "x [m]")
    assert axes.get_ylim() == (100, 0)


def test_a_square_domain_stands_exact():
    axes, plane = Figure().add_subplot(), plane_of(GRID)
    image = draw(axes, np.eye(4), plane, (0, 1), "viridis")
    label_axes(axes, plane)
    assert not plane.lies_down
    assert image.get_extent() == [0, 1, 0, 1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x [-]", "y [-]")


def test_a_line_is_drawn_in_space_and_time_exact():
    """A pulse that moves a cell a step: x to the right, time upwards, the error below."""
    pulse = torch.eye(6)[:5, None]
    figure = draw_fields({"reference": pulse, "SRC": 3 * pulse}, LINE, 2)
    reference, source, nothing, error = figure.axes[:4]
    image = reference.images[0]
    np.testing.assert_array_equal(image.get_array(), pulse[:, 0])
    assert image.origin == "lower"
    assert image.get_extent() == [0, 2, -0.25, 2.25]  # m, and 4 steps of 0.5 s about their times
    assert (error.get_xlabel(), error.get_ylabel()) == ("x [m]", "time [s]")
    assert (reference.get_title(), source.get_title()) == ("reference", "SRC")
    assert not nothing.images
    np.testing.assert_array_equal(error.images[0].get_array(), 2 * pulse[:, 0])
    assert error.images[0].norm.vmax == 2
    assert figure.get_suptitle() == "Unseen run 3, to t = 2 s"


def test_a_box_is_drawn_by_its_middle_plane_exact():
    """Across its shortest axis, z: the cells at z = 0.625 m, y upwards, x to the right."""
    values = torch.arange(3 * 4 * 6 * 8.0).reshape(1, 3, 4, 6, 8)
    figure = draw_fields({"reference": values, "SRC": values + 2}, BOX, 2)
    found = figure.axes[0].images[0].get_array()
    assert plane_of(BOX).names == ("y", "x")
    assert not plane_of(BOX).lies_down
    np.testing.assert_allclose(found, values[0, :, 2].norm(dim=0), rtol=1e-6)
    error = figure.axes[3].images[0].get_array()
    np.testing.assert_allclose(error, np.full((6, 8), 12**0.5), rtol=1e-6)
    assert figure.get_suptitle() == "Unseen run 3 at t = 0, z = 0.625 m"
    assert torch.equal(mid_plane(values[:, 0], BOX), values[:, 0, 2])


@pytest.mark.parametrize(
    ("extent", "names", "where"),
    [
        ((1.0, 1.0, 1.0), ("y", "x"), "z = 0.625 m"),
        ((9.0, 1.0, 2.0), ("z", "x"), "y = 0.583 m"),
        ((9.0, 2.0, 1.0), ("z", "y"), "x = 0.562 m"),
    ],
)
def test_the_plane_of_a_box_has_its_two_longest_axes_exact(extent, names, where):
    plane = plane_of(Grid((4, 6, 8), extent, 0.1, ("u",), units={"space": "m"}))
    assert (plane.names, plane.where) == (names, where)


def test_a_single_channel_keeps_its_sign_and_its_offset_exact():
    """300 K and a little is not drawn from 0 K; what has a sign is drawn about 0."""
    grid = Grid((4, 4), (1.0, 1.0), 0.1, ("temperature",), units={"temperature": "K"})
    warm = 300 + torch.linspace(0, 1, 16).reshape(1, 1, 4, 4)
    for states, low, high in ((warm, 300, 301), (warm - 301, -1, 1)):
        image = draw_fields({"reference": states, "SRC": states}, grid, 2).axes[0]
        norm = image.images[0].norm
        np.testing.assert_allclose((norm.vmin, norm.vmax), (low, high), atol=0.02)


@pytest.mark.parametrize("grid", [GRID, LONG, LINE, BOX], ids=["square", "long", "line", "box"])
def test_nine_labels_fit_on_a_page_and_nothing_overprints(grid):
    """No two panels, colour bars, titles or labels of axes overlap."""
    states = {f"label {i}": torch.randn(3, *grid.state_shape) for i in range(9)}
    figure = draw_fields(states, grid, 2)
    FigureCanvasAgg(figure).draw()
    assert figure.get_figwidth() < 9
    boxes = [a.get_tightbbox() for a in figure.axes if a.axison] + [
        figure._suptitle.get_tightbbox()
    ]
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert not one.padded(-1).overlaps(other.padded(-1))


@pytest.mark.parametrize(("least", "scale"), [(0.1, "log"), (0.0, "linear"), (-1.0, "linear")])
def test_a_loss_that_is_not_positive_is_on_a_linear_axis_exact(least, scale):
    cost = np.arange(1, 9.0)
    looks = np.where(cost % 4 == 0, least, np.nan)
    for values, seen in ((np.linspace(2, least, 8), None), (cost, looks)):
        figure = draw_loss_curves([CostCurve("NON", cost, cost, values, validation=seen)])
        assert [axes.get_yscale() for axes in figure.axes] == [scale, scale]
        assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]


def test_a_validation_has_the_colour_of_its_training_also_of_an_unknown_label():
    cost = np.arange(1, 9.0)
    looks = np.where(cost % 4 == 0, 1.5, np.nan)
    figure = draw_loss_curves(
        [
            CostCurve(label, cost, cost, np.linspace(2, 1, 8), validation=looks)
            for label in ("mine", "ETKI", "another")
        ],
    )
    for panel in figure.axes:
        colours = [line.get_color() for line in panel.lines]
        assert colours[0::2] == colours[1::2]
        assert len(set(colours)) == 3
