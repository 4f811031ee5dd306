"""Certificates as a table of text that grows line by line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from torch import Tensor

from zopde.errors import InputError
from zopde.seeding import generator
from zopde.smoothing import Smooth

COLUMNS = ("index", "label", "prediction", "radius", "correct", "seconds")
FILE = "certificates.tsv"


@dataclass(frozen=True)
class Row:
    """What became of one image.

    Args:
        index: Its number in its part of the data.
        label: What it shows.
        prediction: The certified class, or -1.
        radius: Certified, in the units of the model's input.
        seconds: Spent on it.
    """

    index: int
    label: int
    prediction: int
    radius: float
    seconds: float

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label; an abstention is not."""
        return self.prediction == self.label

    def __str__(self) -> str:
        # repr of a float can be read back to the last bit.
        cells = (self.index, self.label, self.prediction, self.radius, int(self.correct))
        return "\t".join([*map(repr, cells), f"{self.seconds:.4f}"])


@final
class Certificates:
    """The file: a header, then one line per image, written out before the next image begins.

    A process may be killed at any byte. So a last line without its end is cut off when the file
    is opened again, and its image is certified anew.

    Args:
        path: The file, made where it does not exist.

    Attributes:
        rows: Those that are complete.

    Raises:
        InputError: If a line that is complete cannot be read.
    """

    def __init__(self, path: Path) -> None:
        whole = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
        self.rows = read_rows(path) if whole else []
        self._file = path.open("a", encoding="utf-8")
        self._file.truncate(whole)
        if not whole:
            self._write("\t".join(COLUMNS))

    def add(self, row: Row) -> None:
        """One line more, whole and flushed."""
        self._write(str(row))
        self.rows.append(row)

    def close(self) -> None:
        """No line will follow."""
        self._file.close()

    def _write(self, line: str) -> None:
        self._file.write(f"{line}\n")
        self._file.flush()


class Sampling(Protocol):
    """How an image is certified; see `zopde.Smooth.certify`."""

    @property
    def n0(self) -> int:
        """Samples that choose the class."""
        ...

    @property
    def n(self) -> int:
        """Samples that bound its probability."""
        ...

    @property
    def alpha(self) -> float:
        """Chance of a wrong certificate."""
        ...

    @property
    def batch(self) -> int:
        """Samples per call of the classifier."""
        ...


def certified(
    smooth: Smooth, x: Tensor, index: int, label: int, seed: int, sampling: Sampling
) -> Row:
    """Certify one image; its noise is a function of (seed, index)."""
    began = time.perf_counter()
    draw = generator(seed, "smoothing", index)
    found = smooth.certify(x, sampling.n0, sampling.n, sampling.alpha, draw, sampling.batch)
    seconds = time.perf_counter() - began
    return Row(index, label, found.prediction, found.radius, seconds)


def read_rows(path: Path) -> list[Row]:
    """The complete lines of a table of certificates.

    Raises:
        InputError: If it cannot be read, or is none.
    """
    try:
        head, *lines = path.read_text(encoding="utf-8").split("\n")[:-1] or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    if head and head.split("\t") != list(COLUMNS):
        raise _unreadable(path, f"the header {head[:60]!r}")
    return [_row(path, number, line) for number, line in enumerate(lines, start=2)]


def check_order(path: Path, rows: Sequence[Row], wanted: Sequence[tuple[int, int]]) -> None:
    """Require that `rows` are the first of the wanted (index, label) pairs.

    Raises:
        InputError: If the table was made for other images.
    """
    for row, pair in zip(rows, wanted, strict=False):
        if (row.index, row.label) != pair:
            raise _unreadable(path, f"image {row.index} where image {pair[0]} should be")
    if len(rows) > len(wanted):
        raise _unreadable(path, f"{len(rows)} images where {len(wanted)} should be")


def _row(path: Path, number: int, line: str) -> Row:
    try:
        index, label, prediction, radius, correct, seconds = line.split("\t")
        row = Row(int(index), int(label), int(prediction), float(radius), float(seconds))
        if row.correct != bool(int(correct)):
            raise ValueError
    except ValueError as error:
        raise _unreadable(path, f"line {number}, {line[:60]!r}") from error
    return row


def _unreadable(path: Path, got: str) -> InputError:
    return InputError(
        f"table {path}",
        got=got,
        expected=f"the columns {' '.join(COLUMNS)}, one line per image",
        remedy="make it anew with --overwrite",
    )
