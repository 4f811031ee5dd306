"""Whether a gradient is that of l: what remains of l after its first-order part."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.errors import SolverError
from zopde.protocols import Oracle

_FIT = 4  # points of the ladder that make a rate


def taylor_rate(
    oracle: Oracle,
    direction: Float[Tensor, " d"],
    slope: float,
    steps: list[float],
    noise: float,
    slope_error: float = 0.0,
) -> float | None:
    """Rate at which |l(theta + h v) - l(theta) - h g . v| falls with h.

    It is 2 for the gradient of a smooth l, and 1 for any other g: the error in g then rules at
    small h. The rate is the slope of a straight line through the logarithms at the smallest
    steps whose remainder is ten times its noise.

    Args:
        oracle: Who answers; one query per step and one more.
        direction: (d,), v.
        slope: g . v.
        steps: h, rising.
        noise: Standard deviation of l.
        slope_error: Standard deviation of `slope`.

    Returns:
        The rate; None where fewer than three remainders rise above the noise (l is linear
        along v, as far as can be told).
    """
    lengths = torch.tensor([0.0, *steps], dtype=torch.float64)
    rows = lengths[:, None].to(direction) * direction
    losses = _ask(oracle, rows)
    remainder = (losses[1:] - losses[0] - lengths[1:] * slope).abs().tolist()
    above = [
        (math.log(h), math.log(r))
        for h, r in zip(steps, remainder, strict=True)
        if math.isfinite(r) and r > 10 * math.hypot(math.sqrt(2) * noise, h * slope_error)
    ][:_FIT]
    if len(above) < 3:
        return None
    x, y = torch.tensor(above, dtype=torch.float64).T
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def _ask(oracle: Oracle, rows: Tensor) -> Tensor:
    try:
        return oracle.directions(rows, 1.0).double().cpu()
    except SolverError:
        if len(rows) == 1:  # a step too far for the solver is left out
            return torch.full((1,), torch.nan, dtype=torch.float64)
        return torch.cat([_ask(oracle, row) for row in rows.split(1)])
