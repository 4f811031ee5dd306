"""A state as the row of numbers that a foreign code sees."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from zopde.grid import Grid
from zopde.validate import check_choice

Order = Literal["C", "F"]
_NUMBER = np.dtype("<f8")


@final
class Values:
    """float64, little-endian; (channel, *space) in C or in Fortran order.

    Args:
        grid: What a state looks like.
        order: "C": the last space dimension is the fastest; "F": the channel is.
    """

    def __init__(self, grid: Grid, order: Order = "C") -> None:
        check_choice("order", order, ("C", "F"))
        self._shape = grid.state_shape
        self._order: Order = order

    def sent(self, state: Tensor, forcing: Tensor | None) -> bytes:
        """The state's numbers, then the forcing's."""
        parts = (state,) if forcing is None else (state, forcing)
        return b"".join(part.numpy().astype(_NUMBER).tobytes(self._order) for part in parts)

    def read(self, answer: bytes) -> Tensor:
        """(channel, *space) from the numbers of a state."""
        values = np.frombuffer(answer, _NUMBER).reshape(self._shape, order=self._order)
        return torch.from_numpy(values.astype(np.float64, order="C"))
