"""Heat in a lake with an island: NaN is where there is no water."""

import numpy as np
import torch
from torch import Tensor

from zopde import Grid

WATER = np.ones((16, 24), dtype=bool)
WATER[5:10, 8:14] = False  # the island


class Lake:
    """Diffusion of heat; none goes through a coast."""

    grid = Grid((16, 24), (16.0, 24.0), 0.2, ("T",), boundary="open", mask=WATER)

    def step(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        """(batch, 1, y, x) -> the same, dt later."""
        warm = np.where(WATER, state.numpy(), np.nan)  # zopde gives 0 on land
        change = np.zeros_like(warm)
        for axis in (2, 3):
            flux = np.nan_to_num(np.diff(warm, axis=axis))
            change += np.diff(flux, axis=axis, prepend=0, append=0)
        return torch.from_numpy(warm + self.grid.dt * change)
