"""Learning rate over the iterations."""

from __future__ import annotations

import math


def cosine(iteration: int, iterations: int, warmup: int = 0) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine down to zero.

        i < w:  (i + 1) / w          else:  (1 + cos(pi (i - w) / (n - w))) / 2

    Args:
        iteration: i, counted from 0.
        iterations: n, the length of the training.
        warmup: w, iterations of the linear rise; 0 for none.

    Returns:
        A factor in [0, 1]. A function of the iteration alone, so a resumed run has it too.
    """
    if iteration < warmup:
        return (iteration + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, iterations - warmup)))
