"""Images from NumPy archives: a user's own, and the embedded digits."""

from __future__ import annotations

import zipfile
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

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
