from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from zopde import Grid
from zopde.report.fields import Film, animate

SQUARE = Grid((4, 4), (1.0, 1.0), 0.1, ("v", "u"))
BOX = Grid((4, 4, 4), (1.0, 1.0, 1.0), 0.1, ("u",))
LONG = Grid((8, 4), (200.0, 100.0), 1.0, ("v", "u"))


def film(grid, steps=9, **more):
    values = np.random.default_rng(0).normal(size=(steps, *grid.shape))
    return Film({"reference": values, "SRC": 0.5 * values, **more}, grid, "vorticity", signed=True)


@pytest.mark.parametrize(("grid", "down"), [(SQUARE, False), (LONG, True)])
def test_panels_side_by_side_or_below_each_other_exact(grid, down):
    gif, still = animate(film(grid), frames=5)
    moving, last = Image.open(BytesIO(gif)), Image.open(BytesIO(still))
    assert moving.n_frames == 5
    assert moving.size == last.size
    assert (moving.width < moving.height) == down
    assert last.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert moving.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_a_gif_that_is_too_large_loses_frames_and_keeps_the_last():
    whole, still = animate(film(SQUARE, steps=33), frames=33)
    small, same = animate(film(SQUARE, steps=33), frames=33, most=len(whole) // 2)
    assert len(small) <= len(whole) // 2
    assert same == still
    ends = []
    for gif in (whole, small):
        moving = Image.open(BytesIO(gif))
        moving.seek(moving.n_frames - 1)
        ends.append(np.asarray(moving.convert("RGB")))
    np.testing.assert_array_equal(*ends)


def test_the_right_way_up_and_grey_where_there_is_nothing_exact():
    """A cell at large y, small x is above and to the left; one that is not finite is grey."""
    values = np.zeros((2, 4, 4))
    values[:, 3, 0], values[:, 0, 3] = 1.0, np.nan
    _, still = animate(Film({"reference": values}, SQUARE, "u", signed=True))
    last = np.asarray(Image.open(BytesIO(still)).convert("RGB")).astype(int)
    # The cell at small y, large x is the only area of that grey: it says where the panel is. The
    # frame of the colour bar adds a line or two.
    grey = (last == 187).all(axis=2)
    (rows,), (columns,) = ((grey.sum(axis=a) > 30).nonzero() for a in (1, 0))
    cell = len(rows)
    assert 40 < cell <= len(columns) <= cell + 3
    row, column = int(np.median(rows)), int(np.median(columns))
    red, _, blue = last[row - 3 * cell, column - 3 * cell]
    assert red > 2 * blue
    assert min(last[row, column - 3 * cell]) > 240
    assert min(last[row - 3 * cell, column]) > 240


def test_a_diverged_label_is_shown_too():
    gif, _ = animate(film(SQUARE, mine=np.full((9, 4, 4), np.nan)))
    assert gif.startswith(b"GIF89a")


def test_the_film_of_a_box_is_that_of_its_middle_plane():
    values = np.random.default_rng(0).normal(size=(9, 4, 4))
    gif, still = animate(Film({"reference": values}, BOX, "u", signed=True), frames=5)
    assert Image.open(BytesIO(gif)).n_frames == 5
    _, same = animate(Film({"reference": values}, SQUARE, "u", signed=True), frames=5)
    one, other = (np.asarray(Image.open(BytesIO(png)).convert("RGB")) for png in (still, same))
    assert one.shape == other.shape
    assert (one != other).any(), "the title says where it is"
    np.testing.assert_array_equal(one[40:], other[40:])
