"""A plain function: one state (channel, y, x) in, the next one out."""

import numpy as np


def advance(u: np.ndarray) -> np.ndarray:
    """Upwind differences on 16 x 16 cells."""
    change = 0.6 * (u - np.roll(u, 1, axis=1)) + 1.0 * (u - np.roll(u, 1, axis=2))
    return u - 0.2 * change
