"""Pictures of grids with land, latitudes, and cells of different sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

from zopde import Grid
from zopde.report import panels
from zopde.report.fields import draw_fields
from zopde.report.panels import save

DEPTHS = (1.0, 3.0, 7.0)  # of cells of 2, 2 to 5 and 5 to 10
WET = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool)


def ocean(**more):
    depths = {"coordinates": {"z": [-d for d in DEPTHS]}, "mask": WET, "boundary": "open"}
    shape = {"shape": (3, 4), "extent": (10.0, 16.0), "dims": ("z", "x"), **depths, **more}
    return Grid(dt=0.1, channels=("T",), units={"space": "m", "T": "K"}, **shape)


def drawn(grid, values):
    axes = Figure().add_subplot()
    plane = panels.plane_of(grid)
    image = panels.draw(axes, values, plane, (0, 12), "viridis")
    panels.label_axes(axes, plane)
    return axes, image


def test_cells_are_as_high_as_they_are_and_the_surface_is_above_exact():
    values = np.arange(12.0).reshape(3, 4)
    axes, image = drawn(ocean(), values)
    low, high = axes.get_ylim()
    assert low == pytest.approx(-10, abs=0.7)
    assert high == pytest.approx(0, abs=0.7)
    assert image.get_extent()[2:] == [low, high]
    shown = image.get_array()
    heights = -np.array(ocean().edges(0))
    pixel = (high - low) / len(shown)
    for row in range(3):
        thick = (shown.data[:, 0] == values[row, 0]).sum() * pixel
        assert thick == pytest.approx(heights[row + 1] - heights[row], abs=pixel)
    assert shown[-1, 0] == values[0, 0]  # the last row is drawn at the top
    assert axes.get_ylabel() == "z [m]"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "8", "16"]


def test_land_is_another_grey_than_what_diverged():
    values = np.arange(12.0).reshape(3, 4)
    values[0, 0] = np.nan
    axes, image = drawn(ocean(), values)
    land = axes.images[1]
    assert image.get_cmap().get_bad().tolist() == list(to_rgba("#bbbbbb"))
    assert to_rgba(land.get_cmap()(0.5)) == to_rgba("#888888")
    dry, nothing = ~land.get_array().mask, image.get_array().mask
    assert nothing[dry].all()
    diverged = nothing & ~dry  # the first cell: above, at the left
    assert diverged[-1, 0]
    assert not diverged[:, 1:].any()
    assert np.array_equal(dry[[0, -1]], ~WET[[2, 0]])


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_latitudes_are_named_as_they_are(shape):
    dims = ("lat", "lon") if shape[0] < shape[1] else ("lon", "lat")
    lat = 20 + 2.5 * (np.arange(16) + 0.5)
    extent = (40.0, 360.0) if dims[0] == "lat" else (360.0, 40.0)
    grid = Grid(shape, extent, 1.0, ("T",), dims=dims, coordinates={"lat": lat})
    axes, image = drawn(grid, np.zeros(shape))
    assert [axes.get_xlabel(), axes.get_ylabel()] == ["lon [-]", "lat [-]"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["20", "40", "60"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "180", "360"]
    assert image.get_extent()[:2] == [0, 360]


@pytest.mark.parametrize("extent", [(10.0, 16.0), (10.0, 160.0), (10.0, 9000.0), (10.0, 2.0)])
def test_pictures_of_any_proportion_are_neither_thin_nor_huge(extent, tmp_path):
    """A column of the ocean beside a basin that is a thousand times longer."""
    grid = replace(ocean(), extent=extent)
    states = {name: torch.rand(3, 1, 3, 4) for name in ("reference", "SRC", "NON", "NOG", "SOL")}
    save(draw_fields(states, grid), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        width, height = picture.size
    assert 0.3 < width / height < 3
