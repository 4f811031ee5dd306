"""OpenFOAM's fields on disk, binary and at full precision."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from zopde.errors import InputError, StepError
from zopde.solvers.files import Array
from zopde.solvers.foamtext import (
    COMPONENTS,
    FoamSyntaxError,
    FoamText,
    Token,
    content_of,
    find,
    put,
)

_BINARY = b' format binary; arch "LSB;label=32;scalar=64"; '
_CLASSES = {"volScalarField": "scalar", "volVectorField": "vector"}
_PLANE = 2  # of a vector's components lie in the plane of a 2-D case
_TIME = re.compile(r"\d+\.?\d*(?:[eE][-+]?\d+)?", re.ASCII)


@final
@dataclass(frozen=True)
class FoamField:
    """One field: the case's file, to which an internal field is added.

    Of an entry that is there twice OpenFOAM takes the last, and a macro such as $internalField
    takes what stands before it. So the state goes to the end, and all that the case says stays
    as it was: comments, macros, includes, and the value that a boundary condition took over.
    """

    name: str  # such as "U" or "p"
    kind: str  # "volScalarField" or "volVectorField"
    before: bytes  # the file up to the end of its header
    after: bytes  # the rest, its lists of numbers in binary

    @classmethod
    def of(cls, path: Path) -> FoamField:
        """The field of a case's 0 folder, in OpenFOAM's text format; it may be compressed."""
        what, found = f"field {path.name!r}", find(path)
        if found is None:
            original = path.parent.with_name(f"{path.parent.name}.orig")
            remedy = f"copy {original} to {path.parent}" if find(original / path.name) else ""
            got = f"no text file {path}"
            raise InputError(what, got=got, expected="one in ascii format", remedy=remedy)
        try:
            file = FoamText.of(content_of(found))
            file.check_last_counts()
        except FoamSyntaxError as error:
            expected = "OpenFOAM's ascii format, and no directive but #include between entries"
            raise InputError(what, got=f"{found}, {error}", expected=expected) from error
        kind = file.header.get("class", "?")
        lacks = "" if file.last("internalField") else " without an internalField"
        if kind not in _CLASSES or lacks:
            got = f"{found} of class {kind}{lacks}"
            expected = f"a header of class {' or '.join(_CLASSES)}, and an internalField"
            raise InputError(what, got=got, expected=expected)
        lists = [t for e in file.entries for t in e.tokens if t.numbers is not None]
        has_numbers = any(t.numbers is not None and len(t.numbers) for t in lists)
        if file.header.get("format") == "binary" and has_numbers:
            got, remedy = (
                f"{found} in binary format",
                "foamFormatConvert with writeFormat ascii converts it",
            )
            raise InputError(what, got=got, expected="ascii", remedy=remedy)
        before, after = file.text[: file.body], _in_binary(file.text, lists, file.body)
        return cls(path.name, kind, before.encode("latin-1"), after)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that it takes in a state: p, or U_x and U_y."""
        if self.kind == "volScalarField":
            return (self.name,)
        return (f"{self.name}_x", f"{self.name}_y")

    def write(self, folder: Path, values: Float[ndarray, "channel y x"]) -> None:
        """Write folder/name; the component out of the plane is 0."""
        of = _CLASSES[self.kind]
        table = np.zeros((values[0].size, COMPONENTS[of]), dtype="<f8")
        table[:, : len(values)] = values.reshape(len(values), -1).T
        state = b"\n\ninternalField nonuniform " + _list(of, table) + b";\n"
        put(folder / self.name, self.before + _BINARY + self.after + state)

    def read(self, folder: Path, shape: Sequence[int]) -> Float[ndarray, "channel y x"]:
        """Read folder/name as OpenFOAM wrote it."""
        path, of = find(folder / self.name), _CLASSES[self.kind]
        if path is None:
            raise StepError(f"no field {self.name} in {folder.name}")
        try:
            file = FoamText.of(content_of(path))
        except FoamSyntaxError as error:
            raise StepError(f"field {self.name}: {error}") from error
        internal, cells = file.last("internalField"), math.prod(shape)
        if internal is None:
            raise StepError(f"field {self.name} has no internalField")
        if "MSB" in file.header.get("arch", ""):
            raise StepError(f"field {self.name} is not in little-endian binary format")
        table = _table(internal.tokens, cells)
        if table is None or table.shape != (cells, COMPONENTS[of]):
            raise StepError(f"field {self.name} is no {of} for each of {cells:,} cells")
        inside = table[:, : min(_PLANE, table.shape[1])]
        return inside.T.reshape(-1, *shape).astype(np.float64)


def _table(tokens: Sequence[Token], cells: int) -> Float[ndarray, "cell component"] | None:
    """The numbers of an internal field; None if it holds other things."""
    if len(tokens) == 2 and tokens[0].text == "nonuniform":
        return tokens[1].numbers
    try:
        numbers = [float(token.text) for token in tokens[1:] if token.text not in ("(", ")")]
    except ValueError:
        return None
    return np.tile(np.array(numbers), (cells, 1)) if tokens[0].text == "uniform" else None


def _in_binary(text: str, lists: Sequence[Token], start: int) -> bytes:
    """The text from `start` on, with these lists of it in binary."""
    parts = []
    for token in lists:
        parts += [
            text[start : token.start].encode("latin-1"),
            _list(token.text[5:-1], token.numbers),
        ]
        start = token.end
    return b"".join([*parts, text[start:].encode("latin-1")])


def _list(of: str, table: ndarray | None) -> bytes:
    table = np.zeros(0) if table is None else table
    raw = table.astype("<i4" if of == "label" else "<f8").tobytes()
    return f"List<{of}>\n{len(table)}\n(".encode() + raw + b")\n"


@final
@dataclass(frozen=True)
class FoamFiles:
    """A state as OpenFOAM's fields: written to the time folder 0, read from the last one."""

    fields: tuple[FoamField, ...]  # in the order of the channels
    shape: tuple[int, ...]  # cells along (y, x)

    @property
    def names(self) -> dict[str, str]:
        """None: OpenFOAM knows where its fields are."""
        return {}

    def write(self, folder: Path, state: Array, forcing: Array | None) -> None:  # noqa: ARG002
        """See `Files`."""
        first = 0
        for field in self.fields:
            count = len(field.channels)
            field.write(folder / "0", state[first : first + count])
            first += count

    def read(self, folder: Path) -> Array:
        """See `Files`. The last time is the greatest number, however it is written."""
        times = {
            float(p.name): p for p in folder.iterdir() if p.is_dir() and _TIME.fullmatch(p.name)
        }
        last = max(times, default=0.0)
        if last <= 0:
            raise StepError("no time folder was written")
        return self.read_time(times[last])

    def read_time(self, folder: Path) -> Array:
        """The state of one time folder."""
        return np.concatenate([field.read(folder, self.shape) for field in self.fields])

    def check(self) -> None:
        """Require that two states, written into the case's fields, are read back as they were."""
        draw, channels = np.random.default_rng(0), sum(len(f.channels) for f in self.fields)
        for _ in range(2):
            state = draw.standard_normal((channels, *self.shape))
            with TemporaryDirectory(prefix="zopde-check-") as folder:
                (Path(folder) / "0").mkdir()
                self.write(Path(folder), state, None)
                try:
                    back: Array | str = self.read_time(Path(folder) / "0")
                except StepError as error:
                    back = error.reason
            if isinstance(back, str) or not np.array_equal(back, state):
                got = f"{back if isinstance(back, str) else 'other numbers'} after it was written"
                raise InputError("case", got=got, expected="fields that take a state")
