"""Certificates of images as a table of text that grows line by line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from torch import Generator, Tensor

from zopde.files import append_text, reading, write_text
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.smoothing import Certificate, Decision, Smooth, Verdict

COLUMNS = ("index", "label", "prediction", "radius", "correct", "seconds")
DECIDED = (*COLUMNS[:-1], "answers", "verdicts", "seconds")  # where radii are decided
FILE = "certificates.tsv"
RADII = (0.0, 0.25, 0.5, 0.75)
"""Radii of the tables of results, in the units of the model's input."""
_VERDICTS = get_args(Verdict)


@dataclass(frozen=True)
class Row:
    """What became of one image."""

    index: int  # its number in its part of the data
    label: int  # what it shows
    prediction: int  # the certified class, or -1
    radius: float  # certified, in the units of the model's input
    seconds: float  # spent on it
    # Where radii are decided
    answers: int = 0  # of the base classifier
    verdicts: tuple[str, ...] = ()  # on each radius

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label; an abstention is not."""
        return self.prediction == self.label

    def __str__(self) -> str:
        # repr of a float can be read back to the last bit.
        cells = (self.index, self.label, self.prediction, self.radius, int(self.correct))
        decided = (str(self.answers), ",".join(self.verdicts)) if self.verdicts else ()
        return "\t".join([*map(repr, cells), *decided, f"{self.seconds:.4g}"])


@dataclass(frozen=True)
class Sampling:
    """How an image is certified; see `certify` and `decide` of `zopde.Smooth`."""

    n0: int  # samples that choose the class
    n: int  # samples that bound its probability; at most so many where radii are decided
    alpha: float  # probability with which a certificate may be wrong
    batch: int  # samples that are classified at a time
    decide: tuple[float, ...] = ()  # radii that are decided; none: the radius is looked for

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table."""
        return DECIDED if self.decide else COLUMNS

    def judge(self, smooth: Smooth, x: Tensor, draw: Generator) -> Certificate | Decision:
        """What becomes of an image."""
        if self.decide:
            given = self.n0, self.n, self.alpha, draw, self.batch
            return smooth.decide(x, self.decide, *given)
        return smooth.certify(x, self.n0, self.n, self.alpha, draw, self.batch)


def certify_images(
    path: Path,
    smooth: Smooth,
    wanted: Sequence[tuple[int, int]],
    input_of: Callable[[int], Tensor],
    sampling: Sampling,
    seed: int,
    progress: Progress,
    title: str,
) -> list[Row]:
    """Certify the `wanted` (index, label), in order; those in the table `path` are not done again.

    A process may be killed at any byte. So every line is written out before the next image
    begins, and a last line without its end is cut off: its image is certified anew. The noise of an
    image is a function of `seed` and of its index; `input_of` gives its pixels, (channel, y, x).
    """
    whole = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
    rows = read_rows(path) if whole else []
    _check_order(path, rows, wanted, len(sampling.decide))
    left, right = wanted[len(rows) :], sum(row.correct for row in rows)
    if rows and left:
        progress.note(f"{len(rows)} images are certified, {len(left)} are left")
    if whole:
        os.truncate(path, whole)
    else:
        write_text(path, "\t".join(sampling.columns) + "\n")
    with progress.stage(title, len(left)) as advance:
        for index, label in left:
            x, began = input_of(index), time.perf_counter()
            draw = generator(seed, "smoothing", index)
            found = sampling.judge(smooth, x, draw)
            seconds = time.perf_counter() - began
            decided = (found.answers, found.verdicts) if isinstance(found, Decision) else ()
            rows.append(Row(index, label, found.prediction, found.radius, seconds, *decided))
            append_text(path, f"{rows[-1]}\n")
            right += rows[-1].correct
            advance(text=f"{100 * right / len(rows):.1f} % right")
    return rows


def read_rows(path: Path) -> list[Row]:
    """The complete lines of a table of certificates."""
    with _reading(path):
        head, *lines = path.read_text(encoding="utf-8").split("\n")[:-1] or [""]
        columns = tuple(head.split("\t"))
        if head and columns not in (COLUMNS, DECIDED):
            raise ValueError(f"the header {head[:60]!r}")
        return [_row(number, line, columns) for number, line in enumerate(lines, start=2)]


def _check_order(
    path: Path, rows: Sequence[Row], wanted: Sequence[tuple[int, int]], radii: int
) -> None:
    """Require that `rows` are the first of the wanted (index, label) pairs, with their verdicts."""
    with _reading(path):
        for row, pair in zip(rows, wanted, strict=False):
            if (row.index, row.label) != pair:
                raise ValueError(f"image {row.index} where image {pair[0]} should be")
            if len(row.verdicts) != radii:
                raise ValueError(f"{len(row.verdicts)} verdicts where {radii} should be")
        if len(rows) > len(wanted):
            raise ValueError(f"{len(rows)} images where {len(wanted)} should be")


def _row(number: int, line: str, columns: Sequence[str]) -> Row:
    try:
        cells = dict(zip(columns, line.split("\t"), strict=True))
        row = Row(
            int(cells["index"]),
            int(cells["label"]),
            int(cells["prediction"]),
            float(cells["radius"]),
            float(cells["seconds"]),
            int(cells.get("answers", 0)),
            tuple(cells["verdicts"].split(",")) if "verdicts" in cells else (),
        )
        if row.correct != bool(int(cells["correct"])) or not {*row.verdicts} <= {*_VERDICTS}:
            raise ValueError
    except ValueError as error:
        raise ValueError(f"line {number}, {line[:60]!r}") from error
    return row


def _reading(path: Path) -> AbstractContextManager[None]:
    expected = f"the columns {' '.join(COLUMNS)}, one line per image"
    return reading("table", path, expected, "make it anew with --overwrite")
