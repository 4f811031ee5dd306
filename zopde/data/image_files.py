"""Image data from whatever lies at a path.

Images from NumPy archives: a user's own, and the embedded digits.

The idx format of MNIST and Fashion-MNIST.

Pictures in folders named after their classes.
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from zopde.data import cifar
from zopde.data.images import ImageData, Images
from zopde.errors import InputError, first_line

_NAMES = ("x_train", "y_train", "x_test", "y_test")


def digits() -> ImageData:
    """1,797 handwritten digits of 8 x 8 pixels, 0 ... 16; every fifth one is for the test.

    The test part of Alpaydin and Kaynak's "Optical Recognition of Handwritten Digits" (UCI
    Machine Learning Repository 1998, CC BY 4.0), in the order of scikit-learn's `load_digits`.
    """
    with as_file(files("zopde.data") / "digits.npz") as path, np.load(path) as stored:
        pixels, labels = stored["images"], stored["labels"]
    test = np.arange(len(labels)) % 5 == 4
    return ImageData(
        "digits",
        Images.of(pixels[~test], labels[~test]),
        Images.of(pixels[test], labels[test]),
        tuple(map(str, range(10))),
    )


def read_npz(path: Path) -> ImageData:
    """Arrays x_train, y_train, x_test, y_test: pixels (n, y, x) or (n, channel, y, x), labels (n,).

    Raises:
        InputError: If an array is missing, or the file is no npz; pickled objects are refused.
    """
    try:
        if not zipfile.is_zipfile(path):  # NumPy would call anything else a pickle
            raise zipfile.BadZipFile("another file, or half of one")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _NAMES if name in stored}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"image data {path}", got=first_line(error), expected="a complete npz of plain arrays"
        ) from error
    missing = [name for name in _NAMES if name not in arrays]
    if missing:
        raise InputError(f"image data {path}", got=f"no {missing[0]}", expected=", ".join(_NAMES))
    train = Images.of(arrays["x_train"], arrays["y_train"])
    test = Images.of(arrays["x_test"], arrays["y_test"])
    count = 1 + int(max(train.labels.max(), test.labels.max()))
    return ImageData(path.stem, train, test, tuple(map(str, range(count))))


_PARTS = (("train", "train"), ("test", "t10k"))
_BYTES = 0x08  # the type code of unsigned bytes


def is_idx(path: Path) -> bool:
    """Whether a folder holds idx files."""
    return path.is_dir() and _file(path, "train-images-idx3-ubyte") is not None


def read_idx(path: Path) -> ImageData:
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


_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
_TESTS = ("test", "val", "validation")


def is_folder_of_pictures(path: Path) -> bool:
    """Whether a folder has a `train` with classes in it."""
    train = path / "train"
    return train.is_dir() and any(entry.is_dir() for entry in train.iterdir())


def read_pictures(path: Path) -> ImageData:
    """`train/<class>/<picture>` and `test/<class>/<picture>`; classes in alphabetical order.

    Pictures that are not gray come as RGB; all have the size of the first.

    Raises:
        InputError: If a picture is damaged or of another size, or a class has none.
    """
    tests = [path / name for name in _TESTS if (path / name).is_dir()]
    if not tests:
        raise InputError(f"image data {path}", got="no folder test", expected="train and test")
    classes = tuple(sorted(entry.name for entry in (path / "train").iterdir() if entry.is_dir()))
    unknown = {entry.name for entry in tests[0].iterdir() if entry.is_dir()} - set(classes)
    if unknown:
        raise InputError(
            f"image data {tests[0]}", got=f"class {min(unknown)!r}", expected="those of train"
        )
    first = _pictures(path / "train" / classes[0])[0]
    mode = "L" if _opened(first, None).ndim == 2 else "RGB"
    train, test = (_part(folder, classes, mode) for folder in (path / "train", tests[0]))
    return ImageData(path.name, train, test, classes)


def _part(folder: Path, classes: tuple[str, ...], mode: str) -> Images:
    found: list[np.ndarray] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        for picture in _pictures(folder / name):
            pixels = _opened(picture, mode)
            if found and pixels.shape != found[0].shape:
                raise InputError(
                    f"picture {picture}",
                    got=f"{pixels.shape[1]} x {pixels.shape[0]} pixels",
                    expected=f"{found[0].shape[1]} x {found[0].shape[0]}, as the others",
                )
            found.append(pixels)
            labels.append(label)
    stacked = np.stack(found)
    return Images.of(np.moveaxis(stacked, 3, 1).copy() if mode == "RGB" else stacked, labels)


def _pictures(folder: Path) -> list[Path]:
    there = folder.iterdir() if folder.is_dir() else ()
    pictures = sorted(entry for entry in there if entry.suffix.lower() in _ENDINGS)
    if not pictures:
        raise InputError(f"image data {folder}", got="no pictures", expected="some of each class")
    return pictures


def _opened(path: Path, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode or ("L" if image.mode in ("1", "L") else "RGB")))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise InputError(
            f"picture {path}", got=first_line(error), expected="a complete picture"
        ) from error


Reader = Callable[[Path], ImageData]

_FORMATS: tuple[tuple[Callable[[Path], bool], Reader], ...] = (
    (lambda path: path.suffix == ".npz", read_npz),
    (cifar.recognises, cifar.read),
    (is_idx, read_idx),
    (is_folder_of_pictures, read_pictures),
)


def load_images(path: Path | str = "") -> ImageData:
    """Read a data set of images; what it is, is seen from what lies there.

    | path | layout |
    |---|---|
    | nothing | the embedded digits, 8 x 8 pixels |
    | `name.npz` | arrays `x_train`, `y_train`, `x_test`, `y_test` |
    | CIFAR-10 archive or its folder | `data_batch_1` ... (Python) or `data_batch_1.bin` ... |
    | folder of idx files | `train-images-idx3-ubyte` ..., also with `.gz` (MNIST, Fashion-MNIST) |
    | folder of pictures | `train/<class>/...`, `test/<class>/...` |

    Args:
        path: A file or folder; empty for the digits.

    Raises:
        InputError: If nothing is there, it is none of these, or a file is damaged.
    """
    if not str(path) or str(path) == ".":
        return digits()
    place = Path(path)
    if not place.exists():
        raise InputError(
            "image data",
            got=f"{place}, which does not exist",
            expected="a file or folder",
            remedy="name yours with --data; `zopde data fetch cifar10` gets CIFAR-10",
        )
    for recognises, read in _FORMATS:
        if recognises(place):
            return read(place)
    raise InputError(
        "image data",
        got=f"{place}, of no known layout",
        expected="npz, CIFAR-10 archive or folder, idx files, or train/<class> and test/<class>",
    )
