"""How many digits there are behind some numbers: what a program wrote, not what a dtype holds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SHARE = 0.99  # of the numbers that must fit


def significant_digits(values: Tensor) -> int | None:
    """Find the least number of decimal digits that numbers have been rounded to.

    Text output ("0.123457") leaves numbers that are, but for the dtype's own rounding, multiples
    of a power of ten six digits below their first. Chance makes a few of them look so; a program
    makes all.

    Args:
        values: Floating numbers; zeros and exact integers tell nothing.

    Returns:
        Such as 6; None where the numbers fill their dtype, or too few tell.
    """
    flat = values.detach().double().flatten()
    flat = flat[flat.isfinite() & (flat != flat.round())]
    if len(flat) < 16:
        return None
    eps = torch.finfo(values.dtype).eps
    exponent = flat.abs().log10().floor()
    # Beyond this many digits chance alone makes most numbers fit.
    for digits in range(1, math.floor(-math.log10(eps) - 0.9) + 1):
        unit = 10.0 ** (exponent - digits + 1)
        off = (flat - (flat / unit).round() * unit).abs()
        if float((off <= eps * flat.abs()).double().mean()) >= _SHARE:
            return digits
    return None


def narrower_dtype(values: Tensor) -> str:
    """Name a narrower dtype that holds these numbers exactly, as "float32"; "" if there is none."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        narrower = torch.finfo(dtype).eps > torch.finfo(values.dtype).eps
        if narrower and torch.equal(values.to(dtype).to(values.dtype), values):
            return str(dtype).removeprefix("torch.")
    return ""
