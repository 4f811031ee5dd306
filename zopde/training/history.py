"""What happened at every iteration, as CSV."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self, final

from zopde.files import replacing


@dataclass(frozen=True)
class Row:
    """One iteration.

    Args:
        iteration: Counted from 0; the NON start has a history of its own, and the layers'
            scores keep their cost in `layer_ratios.json`.
        loss: The objective before the update.
        gradient_norm: Euclidean norm of the gradient before clipping.
        queries: Objective queries so far.
        solver_steps: Solver steps so far, in states.
        agreement: Of a bank of Jacobians with the solver, a cosine; None where nobody looked.
        variance: Of the entries of a vector-Jacobian product from random directions; else None.
        seconds: Training time so far.
    """

    iteration: int
    loss: float
    gradient_norm: float
    queries: int
    solver_steps: int
    agreement: float | None
    variance: float | None
    seconds: float


@final
class History:
    """Appends rows to a CSV file; rows after the point of resumption are dropped.

    Args:
        path: The file.
        start: First iteration that will be added; earlier rows of an existing file stay.
    """

    def __init__(self, path: Path, start: int) -> None:
        kept: list[list[str]] = []
        if start and path.exists():
            with path.open(newline="") as old:
                kept = [
                    row
                    for row in list(csv.reader(old))[1:]
                    # A row cut off by a kill would pass for an earlier iteration.
                    if len(row) == len(fields(Row)) and int(row[0]) < start
                ]
        # A kill right here must not lose the rows that are kept.
        with replacing(path) as partial, partial.open("w", newline="") as new:
            writer = csv.writer(new)
            writer.writerow(field.name for field in fields(Row))
            writer.writerows(kept)
        self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """Append one row."""
        self._writer.writerow(asdict(row).values())

    def flush(self) -> None:
        """Hand what was added to the operating system."""
        self._file.flush()


def read_history(path: Path) -> list[Row]:
    """The rows of a history, as far as they are whole; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        # The last one may be half written.
        lines = [line for line in csv.DictReader(file) if line["seconds"]]
    return [
        Row(
            int(line["iteration"]),
            float(line["loss"]),
            float(line["gradient_norm"]),
            int(line["queries"]),
            int(line["solver_steps"]),
            _number(line["agreement"]),
            _number(line.get("variance")),
            float(line["seconds"]),
        )
        for line in lines
    ]


def _number(text: str | None) -> float | None:
    return float(text) if text else None
