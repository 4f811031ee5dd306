"""Gaussian noise that does not depend on how it is cut into batches."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

_ENTRIES = 2**18  # of a block: 1 MiB in single precision


@final
class NoiseStream:
    """n rows of N(0, 1), taken a few at a time; how few changes no number.

    A generator gives other numbers for other shapes. So they are drawn in blocks whose size
    follows from the row's shape and n alone, and what a call leaves over waits for the next.

    Args:
        shape: Of a row.
        rows: n, how many will be taken.
        generator: Decides all numbers, on its own device.
        dtype: Floating-point.
    """

    def __init__(
        self, shape: torch.Size, rows: int, generator: Generator, dtype: torch.dtype
    ) -> None:
        size = min(rows, max(1, _ENTRIES // max(1, shape.numel())))
        self._block = torch.empty(size, *shape, dtype=dtype, device=generator.device)
        self._generator = generator
        self._used = size

    def fill(self, target: Float[Tensor, "batch ..."]) -> None:
        """Overwrite `target` with the next rows."""
        filled = 0
        while filled < len(target):
            if self._used == len(self._block):
                self._block.normal_(generator=self._generator)
                self._used = 0
            count = min(len(self._block) - self._used, len(target) - filled)
            target[filled : filled + count] = self._block[self._used : self._used + count]
            self._used += count
            filled += count
