from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from zopde import Grid
from zopde.report.animation import Film, animate

SQUARE = Grid((4, 4), (1.0, 1.0), 0.1, ("v", "u"))
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
    last = Image.open(BytesIO(still)).convert("RGB")
    left, right = 10 + 50, 10 + 350
    above, below = 26 + 50, 26 + 350
    red, _, blue = last.getpixel((left, above))
    assert red > 2 * blue
    assert last.getpixel((right, below)) == (187, 187, 187)
    middle = last.getpixel((left, below))
    assert min(middle) > 240


def test_a_diverged_label_is_shown_too():
    gif, _ = animate(film(SQUARE, mine=np.full((9, 4, 4), np.nan)))
    assert gif.startswith(b"GIF89a")
