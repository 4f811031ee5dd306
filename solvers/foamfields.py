"""OpenFOAM's fields on disk, binary and at full precision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from zopde.errors import InputError, StepError
from zopde.solvers.files import Array

_HEADER = re.compile(r"FoamFile\s*\{[^}]*\}")
_INTERNAL = re.compile(r"internalField\s+((?:non)?uniform\s[^;]*);")
_ARCH = 'arch "LSB;label=32;scalar=64";'
_FOUND = re.compile(
    rb"internalField\s+(?:uniform\s+(?P<uniform>[^;]+);"
    rb"|nonuniform\s+List<(?:scalar|vector)>\s*(?P<count>\d+)\s*\()"
)
_COMPONENTS = {"volScalarField": 1, "volVectorField": 3}
_PLANE = 2  # of a vector's components lie in the plane of a 2-D case


@final
@dataclass(frozen=True)
class FoamField:
    """One field: where its boundary conditions come from, and how its numbers are written.

    Args:
        name: Such as "U" or "p".
        kind: "volScalarField" or "volVectorField".
        before: The file's text up to the internal field, without its header.
        after: The text behind it.
    """

    name: str
    kind: str
    before: str
    after: str

    @classmethod
    def of(cls, path: Path) -> FoamField:
        """The field of a case's 0 folder, in OpenFOAM's text format.

        Raises:
            InputError: If there is none, or it is not a vol field of scalars or vectors.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"field {path.name!r}", got=f"no text file {path}", expected="one in ascii format"
            ) from error
        header, internal = _HEADER.search(text), _INTERNAL.search(text)
        kind = re.search(r"class\s+(\w+)\s*;", header[0]) if header else None
        if header is None or internal is None or kind is None or kind[1] not in _COMPONENTS:
            raise InputError(
                f"field {path.name!r}",
                got=f"{path} of class {kind[1] if kind else '?'}",
                expected=f"a header of class {' or '.join(_COMPONENTS)}, and an internalField",
            )
        # What a boundary condition takes over from the internal field is what the case said.
        after = text[internal.end() :].replace("$internalField", internal[1])
        return cls(path.name, kind[1], text[header.end() : internal.start()], after)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that it takes in a state: p, or U_x and U_y."""
        if self.kind == "volScalarField":
            return (self.name,)
        return (f"{self.name}_x", f"{self.name}_y")

    def write(self, folder: Path, values: Float[ndarray, "channel y x"]) -> None:
        """Write folder/name; the component out of the plane is 0."""
        components = _COMPONENTS[self.kind]
        table = np.zeros((values[0].size, components), dtype="<f8")
        table[:, : len(values)] = values.reshape(len(values), -1).T
        head = f"FoamFile {{ version 2.0; format binary; {_ARCH} class {self.kind}; "
        head += f'location "{folder.name}"; object {self.name}; }}\n{self.before}'
        of = "scalar" if components == 1 else "vector"
        head += f"internalField nonuniform List<{of}>\n{len(table)}\n("
        content = head.encode() + table.tobytes() + b")\n;\n" + self.after.encode()
        (folder / self.name).write_bytes(content)

    def read(self, folder: Path, shape: Sequence[int]) -> Float[ndarray, "channel y x"]:
        """Read folder/name as OpenFOAM wrote it.

        Raises:
            StepError: If it is not there, or does not hold a number for every cell.
        """
        path, components = folder / self.name, _COMPONENTS[self.kind]
        if not path.exists():
            raise StepError(f"no field {self.name} in {folder.name}")
        content = path.read_bytes()
        found, cells = _FOUND.search(content), int(np.prod(shape))
        if found is None:
            raise StepError(f"field {self.name} has no internalField")
        if found["uniform"] is not None:
            numbers = [float(part) for part in found["uniform"].strip(b" ()").split()]
            table = np.tile(np.array(numbers), (cells, 1))
        else:
            head = content[: found.start()]
            if b"binary" not in head or b"LSB" not in head:
                raise StepError(f"field {self.name} is not in little-endian binary format")
            dtype = np.dtype("<f4" if b"scalar=32" in head else "<f8")
            size = cells * components * dtype.itemsize
            body = content[found.end() : found.end() + size]
            if int(found["count"]) != cells or len(body) < size:
                raise StepError(f"field {self.name} is short, or not of {cells:,} cells")
            table = np.frombuffer(body, dtype).reshape(cells, components)
        inside = table[:, : min(_PLANE, components)]
        return inside.T.reshape(-1, *shape).astype(np.float64)


@final
@dataclass(frozen=True)
class FoamFiles:
    """A state as OpenFOAM's fields: written to the time folder 0, read from the last one.

    Args:
        fields: In the order of the channels.
        shape: Cells along (y, x).
    """

    fields: tuple[FoamField, ...]
    shape: tuple[int, ...]

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
        """See `Files`."""
        times = {_time(path.name): path for path in folder.iterdir() if path.is_dir()}
        last = max(times, default=0.0)
        if last <= 0:
            raise StepError("no time folder was written")
        return np.concatenate([field.read(times[last], self.shape) for field in self.fields])


def _time(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return -1.0
