"""Pictures in folders named after their classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from zopde.data.images import ImageData, Images
from zopde.errors import InputError, first_line

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
_TESTS = ("test", "val", "validation")


def recognises(path: Path) -> bool:
    """Whether a folder has a `train` with classes in it."""
    train = path / "train"
    return train.is_dir() and any(entry.is_dir() for entry in train.iterdir())


def read(path: Path) -> ImageData:
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
