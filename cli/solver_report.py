"""The rows of a solver check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POINT_COLUMNS = ("point", "", "found")
COST_COLUMNS = ("cut", "solver steps", "seconds", "once", "depends on")


def point_rows(check: Mapping[str, Any]) -> list[list[str]]:
    """One row for every point."""
    return [[point["name"], point["verdict"], point["found"]] for point in check["points"]]


def point_remedies(check: Mapping[str, Any]) -> list[str]:
    """What to change, of the points that do not pass."""
    return [
        f"{point['name']} ({point['verdict']}): {point['remedy']}"
        for point in check["points"]
        if point["remedy"]
    ]


def cost_rows(check: Mapping[str, Any]) -> list[list[str]]:
    """One row for every cut."""
    return [
        [
            cost["way"],
            f"{cost['solver_steps']:,}",
            f"{cost['seconds']:,.3g}",
            f"{cost['once']:,}" if cost["once"] else "",
            cost["remark"],
        ]
        for cost in check["costs"]
    ]
