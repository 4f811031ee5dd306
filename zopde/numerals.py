"""Numbers for people: as many digits as are needed, and no more."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """A count in full, anything else with four digits, large ones in full."""
    whole = isinstance(value, int) or 9999.5 <= abs(value) < 1e15
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def count(value: float) -> str:
    """A count, or a mean of counts: a whole number."""
    return f"{value:,.0f}"


def measured(value: float, *deviations: float | None, decimals: int = 1) -> list[str]:
    """A number and its deviations, to the second digit of the smallest deviation.

    Args:
        value: Shown with three digits at least.
        deviations: Of the value, such as a standard deviation; None stays empty.
        decimals: Of all, if nothing needs more.

    Example:
        >>> measured(93.1, 0.0003, decimals=2), measured(0.0564, 0.02, None, decimals=4)
        (['93.10000', '0.00030'], ['0.0564', '0.0200', ''])
    """
    place = _place(value)
    needed = [1 - _place(error) for error in deviations if error]
    needed += [2 - place] if value else []
    # Eight digits are more than single precision has.
    decimals = max(0, min(decimals, 5 - place), min(max(needed, default=0), 7 - place))
    return ["" if v is None else _fixed(v, decimals) for v in (value, *deviations)]


def change(value: float, decimals: int = 1) -> str:
    """A difference, with its sign."""
    return f"{'' if value < 0 else '+'}{measured(value, decimals=decimals)[0]}"


def _place(value: float) -> int:
    """Of the first digit: 1 for 93.1, -2 for 0.0564; 0 for 0."""
    return math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0


def _fixed(value: float, decimals: int) -> str:
    if decimals > 8 or 0 < abs(value) < 10.0**-decimals or abs(value) >= 1e15:
        return f"{value:.3g}"
    return f"{value:,.{decimals}f}"
