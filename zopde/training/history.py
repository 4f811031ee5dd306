"""What is written down of every iteration of a training."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from zopde.files import read_rows, reading, write_rows

_WRITTEN = "what the run wrote: restore it, or start over with --overwrite"


@dataclass(frozen=True)
class Row:
    """Holds one iteration of the history; the NON start has a history of its own."""

    iteration: int  # counted from 0
    loss: float  # the objective before the update
    gradient_norm: float  # Euclidean, before clipping
    queries: int  # of the objective, so far
    solver_steps: int  # in states, so far
    agreement: float | None  # of a bank of Jacobians with the solver, a cosine
    error: float | None  # of the bank along the same direction, relative
    variance: float | None  # of the entries of a product from random directions
    # Queries that verified stacked probes, and solver steps that compared products, so far; and
    # what looks at the gradient took, in the same unit
    checking: int
    validation: float | None  # the loss before the update where a look was due
    seconds: float  # of training, so far


_COLUMNS = [column.name for column in fields(Row)]
_OFTEN_EMPTY = ("agreement", "error", "variance", "checking", "validation")


def begin_history(path: Path, start: int) -> None:
    """Make the CSV file of the history; of the rows that are there those below `start` stay."""
    with reading("history", path, _WRITTEN):
        rows = [row for row in _rows(path) if int(row["iteration"]) < start]
    # A kill right here must not lose the earlier rows.
    # An older version had fewer columns.
    write_rows(path, [_COLUMNS, *([row.get(c, "") for c in _COLUMNS] for row in rows)])


def read_history(path: Path) -> list[Row]:
    """Read the whole rows of the history at `path`; there are none where there is no file."""
    whole = ("iteration", "queries", "solver_steps", "checking")

    def value(name: str, text: str | None) -> Any:  # noqa: ANN401 - a number of its column's type
        if name in _OFTEN_EMPTY and not text:
            return 0 if name in whole else None
        return (int if name in whole else float)(text or "")

    with reading("history", path, _WRITTEN):
        rows = _rows(path)
        return [Row(**{name: value(name, row.get(name)) for name in _COLUMNS}) for row in rows]


def _rows(path: Path) -> list[dict[str, str]]:
    """What is whole in a history: a row cut off by a kill would pass for an earlier iteration."""
    header, *rows = read_rows(path) or [[]]
    return [dict(zip(header, row, strict=True)) for row in rows]
