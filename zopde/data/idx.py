"""The idx format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from zopde.data.images import ImageData, Images
from zopde.errors import InputError, first_line

_PARTS = (("train", "train"), ("test", "t10k"))
_BYTES = 0x08  # the type code of unsigned bytes


def recognises(path: Path) -> bool:
    """Whether a folder holds idx files."""
    return path.is_dir() and _file(path, "train-images-idx3-ubyte") is not None


def read(path: Path) -> ImageData:
    """The four files `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, plain or with `.gz`.

    Raises:
        InputError: If one is missing, truncated or no idx file.
    """
    found = {}
    for part, prefix in _PARTS:
        pixels = _array(path, f"{prefix}-images-idx3-ubyte", 3)
        labels = _array(path, f"{prefix}-labels-idx1-ubyte", 1)
        found[part] = Images.of(pixels, labels)
    classes = tuple(map(str, range(1 + int(found["train"].labels.max()))))
    return ImageData(path.name, found["train"], found["test"], classes)


def _array(folder: Path, name: str, axes: int) -> np.ndarray:
    path = _file(folder, name)
    if path is None:
        raise InputError(f"idx files in {folder}", got=f"no {name}", expected="all four files")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"idx file {path}", got=first_line(error), expected="a complete file"
        ) from error
    start = 4 + 4 * axes
    if len(data) < start or data[:4] != bytes((0, 0, _BYTES, axes)):
        raise InputError(
            f"idx file {path}", got="another header", expected=f"unsigned bytes of {axes} axes"
        )
    shape = struct.unpack(f">{axes}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise InputError(
            f"idx file {path}",
            got=f"{len(data) - start:,} bytes of data",
            expected=f"{math.prod(shape):,} for shape {shape}",
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def _file(folder: Path, name: str) -> Path | None:
    candidates = [folder / name, folder / f"{name}.gz", folder / name.replace("-idx", ".idx")]
    return next((path for path in candidates if path.is_file()), None)
