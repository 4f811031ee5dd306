"""The time of day, of the year or of a tide, as channels that a network sees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from zopde.contracts import Domain
from zopde.data.times import since_1970
from zopde.errors import InputError

_NAME = re.compile(r"(sin|cos) (\d\S*)")


def clock_channels(periods: Sequence[float]) -> tuple[str, ...]:
    """Names of the channels sin(2 pi t / P) and cos(2 pi t / P) of each period P: "sin 86400".

    t is the time of a state in the unit of the grid's `dt`: the number in the file, or, where times
    are dates, since 1970-01-01 00:00. A forcing channel of such a name, of which a data file has no
    variable, is made of the file's times.

    Args:
        periods: P, in the unit of the grid's `dt`.
    """
    return tuple(f"{wave} {period:.15g}" for period in periods for wave in ("sin", "cos"))


def is_clock(name: str) -> bool:
    """Whether a channel of this name is made of times."""
    return _NAME.fullmatch(name) is not None


def with_clock(dataset: xr.Dataset, grid: Domain) -> xr.Dataset:
    """A dataset with the grid's channels of the time.

    Raises:
        InputError: If it has no times, or dates of a calendar that is not known here.
    """
    wanted = {name: _NAME.fullmatch(name) for name in grid.forcing_channels if name not in dataset}
    clocks: dict[str, Any] = {name: found for name, found in wanted.items() if found}
    if clocks and "time" not in dataset.coords:
        expected = f"times, of which {', '.join(clocks)} are made"
        raise InputError("data", got="no times", expected=expected)
    for name, found in clocks.items():
        angle = 2 * np.pi * since_1970(dataset["time"], grid) / float(found[2])
        wave = np.sin(angle) if found[1] == "sin" else np.cos(angle)
        dataset = dataset.assign({name: ("time", wave)})
    return dataset
