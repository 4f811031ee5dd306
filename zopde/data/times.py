"""Times of data files, in every unit and calendar of CF: a step apart, and file after file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from zopde.contracts import Domain
from zopde.data.units import SECONDS
from zopde.errors import InputError

_CALENDARS = {"standard", "gregorian", "proleptic_gregorian", "julian", "utc", "tai", "none"}
_CALENDARS |= {"noleap", "365_day", "all_leap", "366_day", "360_day"}


@dataclass(frozen=True)
class Times:
    """The times of a file."""

    values: np.ndarray  # in the unit of the grid's dt, which is a second if it names none
    near: float  # how far a step may be from dt: what the numbers cannot tell apart
    since: tuple[str, str]  # the date from which they count, and its calendar; "": none


def times_of(time: xr.DataArray, grid: Domain) -> Times:
    """Times in the unit of the grid's dt.

    Raises:
        InputError: If they are no times by the rules of CF, or cannot tell two steps apart.
    """
    if time.dims != ("time",):
        raise InputError("data time", got=f"dims {time.dims}", expected="times along time alone")
    values, own = time.values, grid.unit("time").lower()
    text, calendar = time.attrs.get("units", own), str(time.attrs.get("calendar", "standard"))
    unit, *date = re.split(r"\s+since\s+", str(text), maxsplit=1, flags=re.IGNORECASE)
    if values.dtype.kind == "O" and hasattr(values[0], "__sub__"):  # dates of other calendars
        values = (values - values[0]).astype("m8[us]")
    if values.dtype.kind in "mM":
        values, unit = (values - values[0]) / np.timedelta64(1, "s"), "s"
    if values.dtype.kind not in "iuf":
        got = f"type {values.dtype}"
        raise InputError("data time", got=got, expected="numbers or dates, by the rules of CF")
    if calendar.lower() not in _CALENDARS:
        expected = f"one of CF's: {', '.join(sorted(_CALENDARS))}"
        raise InputError("data time", got=f"calendar {calendar!r}", expected=expected)
    factor, unit = 1.0, unit.strip().lower()
    if date and unit not in SECONDS:
        got = f"units {time.attrs['units']!r}"
        raise InputError("data time", got=got, expected="units of a fixed length, such as seconds")
    if unit != own and unit in SECONDS:
        factor = SECONDS[unit] / SECONDS.get(own, 1.0)
    near = 1e-5 * grid.dt + 4 * blur_of(values) * factor
    if near > grid.dt / 4:
        got = f"{time.dtype}, which tells no steps of {grid.dt:g} apart"
        raise InputError("data time", got=got, expected="a finer type, such as float64")
    return Times(
        values.astype(np.float64) * factor, near, ("".join(date).strip(), calendar.lower())
    )


def check_times(time: xr.DataArray, grid: Domain) -> None:
    """Every time must follow the one before by dt, as exactly as the numbers can tell."""
    times = times_of(time, grid)
    steps = np.diff(times.values)
    right = np.abs(steps - grid.dt) <= times.near
    if right.all():
        return
    first, sorted_steps = int(right.argmin()), np.diff(np.unique(times.values))
    got = f"{steps[first]:g} from time {first} to {first + 1}, and {grid.dt:g} elsewhere"
    expected = f"steps of {grid.dt:g} without a gap"
    remedy = "make each whole stretch a simulation of its own"
    if not right.any():
        got, expected, remedy = f"steps of {steps[0]:g}", f"{grid.dt:g}", ""
    if sorted_steps.size and (np.abs(sorted_steps - grid.dt) <= times.near).all():
        remedy = 'such as xarray\'s .drop_duplicates("time").sortby("time")'
    raise InputError("data time", got=got, expected=expected, remedy=remedy)


def blur_of(values: np.ndarray) -> float:
    """How far apart the largest numbers of a type lie."""
    if values.dtype.kind != "f":
        return 0.0
    return float(np.spacing(np.abs(values[np.isfinite(values)]).max(initial=0)))


def order_in_time(
    files: Sequence[object], found: Sequence[Times | None], grid: Domain
) -> list[int]:
    """The order in which files are the consecutive times of one run; [] if each is a simulation.

    Files of the same times, and files without times, are simulations.

    Raises:
        InputError: If files neither begin at one time nor go on from each other by dt.
    """
    times = [one for one in found if one is not None]
    if not times:
        return []
    if len(times) < len(files):
        got = f"{files[found.index(None)]} without times, and others with"
        raise InputError("data time", got=got, expected="times in every file, or in none")
    second = SECONDS.get(grid.unit("time").lower(), 1.0)
    begins = [float(one.values[0]) + _seconds(times[0], one) / second for one in times]
    ends = [
        begin + one.values[-1] - one.values[0] for begin, one in zip(begins, times, strict=True)
    ]
    near = max(one.near for one in times)
    if max(begins) - min(begins) <= near and max(ends) - min(ends) <= near:
        return []
    order = sorted(range(len(files)), key=begins.__getitem__)
    for one, other in pairwise(order):
        step = begins[other] - ends[one]
        if abs(step - grid.dt) > near:
            kind = "a gap" if step > grid.dt else "an overlap"
            got = f"{kind}: {files[other]} begins {step:g} after the end of {files[one]}"
            expected = f"files that go on by steps of {grid.dt:g}, or simulations of the same times"
            raise InputError("data time", got=got, expected=expected)
    return order


def _seconds(one: Times, other: Times) -> float:
    """From the date that one counts from to that of the other."""
    if one.since == other.since:
        return 0.0
    try:
        first, last = (_date(*times.since) for times in (one, other))
        return float(np.timedelta64(last - first) / np.timedelta64(1, "s"))
    except Exception as error:  # no date, or one of a calendar that is not known here
        dates = [" ".join(filter(None, times.since)) for times in (one, other)]
        got = "times since " + " and ".join(date or "no date" for date in dates)
        remedy = "write the times of all files since one date"
        if one.since[0] and other.since[0]:
            remedy = f"install cftime, or {remedy}"
        raise InputError("data time", got=got, expected="one date", remedy=remedy) from error


def since_1970(time: xr.DataArray, grid: Domain) -> np.ndarray:
    """Times in the unit of the grid's dt: dates since 1970-01-01 00:00, numbers as they are.

    Raises:
        InputError: If they are no times by the rules of CF, or dates of a calendar not known here.
    """
    times = times_of(time, grid)
    if time.dtype.kind in "mMO":  # `times` begin at the first
        first: Any = time.values[0]
    elif times.since[0]:
        try:
            first = _date(*times.since)
        except Exception as error:  # no date, or one of a calendar that is not known here
            got, remedy = f"times since {' '.join(times.since)}", "install cftime, or write numbers"
            raise InputError("data time", got=got, expected="a date", remedy=remedy) from error
    else:
        return times.values
    begin: Any = first
    if isinstance(first, np.datetime64):
        begin = first - np.datetime64("1970-01-01")
    elif not isinstance(first, np.timedelta64):  # of another calendar
        day = {"year": 1970, "month": 1, "day": 1, "hour": 0, "minute": 0, "second": 0}
        begin = first - first.replace(**day, microsecond=0)
    second = SECONDS.get(grid.unit("time").lower(), 1.0)
    return times.values + float(np.timedelta64(begin) / np.timedelta64(1, "s")) / second


def _date(date: str, calendar: str) -> Any:  # noqa: ANN401 - numpy's, or cftime's
    attributes = {"units": f"days since {date}", "calendar": calendar}
    return xr.decode_cf(xr.Dataset({"date": ((), 0, attributes)}))["date"].values[()]
