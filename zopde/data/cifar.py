"""CIFAR-10 as its authors publish it: the Python and the binary version."""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, final

import numpy as np

from zopde.data.images import ImageData, Images
from zopde.errors import InputError, first_line

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST = "test_batch"
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # a label, then the pixels, plane by plane
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
# All that a pickled array of plain numbers needs.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def recognises(path: Path) -> bool:
    """Whether a path is an archive, or a folder with the batches of one."""
    return path.name.endswith(_ARCHIVES) or (path.is_dir() and _folder(path) is not None)


def read(path: Path) -> ImageData:
    """CIFAR-10 from an official archive, or from the folder that it unpacks to.

    Raises:
        InputError: If a batch is missing or damaged, or a pickle asks for more than arrays.
    """
    parts = _from_folder(path) if path.is_dir() else _from_archive(path)
    missing = [name for name in (*_TRAIN, _TEST) if name not in parts]
    if missing:
        raise InputError(
            f"CIFAR-10 in {path}",
            got=f"no {missing[0]}",
            expected="five data_batch, one test_batch",
        )
    batches = {name: _batch(name, *parts[name]) for name in (*_TRAIN, _TEST)}
    pixels = np.concatenate([batches[name][0] for name in _TRAIN])
    labels = np.concatenate([batches[name][1] for name in _TRAIN])
    test = Images.of(*batches[_TEST])
    return ImageData("CIFAR-10", Images.of(pixels, labels), test, CLASSES)


Parts = dict[str, tuple[bool, bytes]]
"""Name of a batch -> whether it is binary, its content."""


def _from_archive(path: Path) -> Parts:
    parts: Parts = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name, binary = _name(member.name)
                if name and member.isfile():
                    file = archive.extractfile(member)
                    assert file is not None
                    parts[name] = binary, file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"archive {path}",
            got=first_line(error),
            expected="a complete CIFAR-10 archive",
            remedy="`zopde data fetch cifar10` gets and checks it",
        ) from error
    return parts


def _from_folder(path: Path) -> Parts:
    folder = _folder(path)
    assert folder is not None
    names = {entry: _name(entry.name) for entry in folder.iterdir() if entry.is_file()}
    return {name: (binary, entry.read_bytes()) for entry, (name, binary) in names.items() if name}


def _folder(path: Path) -> Path | None:
    """The folder itself, or the one inside it that the archive makes."""
    inside = ("", "cifar-10-batches-py", "cifar-10-batches-bin")
    places = [path / name for name in inside]
    return next((p for p in places if list(p.glob("data_batch_1*"))), None)


def _name(path: str) -> tuple[str, bool]:
    name = PurePosixPath(path).name
    plain = name.removesuffix(".bin")
    return (plain if plain in (*_TRAIN, _TEST) else ""), plain != name


def _batch(name: str, binary: bool, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = _binary(name, content) if binary else _pickled(name, content)
    if pixels.shape != (len(labels), _RECORD - 1) or pixels.dtype != np.uint8:
        raise InputError(
            name,
            got=f"{pixels.dtype} of shape {pixels.shape}, {len(labels)} labels",
            expected=f"bytes of shape (images, {_RECORD - 1}), one label each",
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise InputError(name, got="labels of no class", expected=f"0 ... {len(CLASSES) - 1}")
    return pixels.reshape(-1, *_SHAPE), labels


def _binary(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not content or len(content) % _RECORD:
        raise InputError(
            name, got=f"{len(content):,} bytes", expected=f"a multiple of {_RECORD:,}: whole images"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _pickled(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        found: Any = _Arrays(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(found, Mapping):
            raise pickle.UnpicklingError(f"a {type(found).__name__} instead of a dict")
        return np.asarray(found[b"data"]), np.asarray(found[b"labels"], dtype=np.int64)
    except Exception as error:  # damaged pickles raise anything
        raise InputError(
            name,
            got=f"{type(error).__name__}: {first_line(error)}",
            expected="a batch of CIFAR-10, python version",
        ) from error


@final
class _Arrays(pickle.Unpickler):
    """Builds arrays of plain numbers, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
