"""Image data from whatever lies at a path: `load_images`, and a reader for every layout."""

from __future__ import annotations

import gzip
import logging
import math
import tarfile
import zipfile
from importlib.resources import as_file, files
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from zopde.data.images import ImageData, Images, picture
from zopde.errors import InputError
from zopde.files import reading
from zopde.validate import checked

log = logging.getLogger(__name__)


@checked
def load_images(path: Path | str = "") -> ImageData:
    """Read a data set of images; its format is recognised from its files.

    | path | layout |
    |---|---|
    | nothing | the embedded digits, 8 x 8 pixels |
    | `name.npz` | arrays `x_train`, `y_train`, `x_test`, `y_test` |
    | CIFAR-10's binary archive or its folder | `data_batch_1.bin` ..., `test_batch.bin` |
    | folder of idx files | `train-images-idx3-ubyte` ..., also with `.gz` (MNIST, Fashion-MNIST) |
    | folder of pictures | `train/<class>/...`, `test/<class>/...` |

    Args:
        path: A file or folder; empty for the digits.

    Raises:
        InputError: If nothing is there, it is none of these, or a file is damaged.
    """
    if not str(path) or str(path) == ".":
        return digits()
    path = Path(path)
    if not path.exists():
        remedy = "name yours with --data; `zopde data fetch cifar10` gets CIFAR-10"
        got = f"{path}, which does not exist"
        raise InputError("image data", got=got, expected="a file or folder", remedy=remedy)
    if path.suffix == ".npz":
        return _read_npz(path)
    archive = path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar"))
    if archive or _cifar_folder(path):
        return _read_cifar(path)
    if _idx_file(path, "train-images-idx3-ubyte"):
        return _read_idx(path)
    if _folders_in(path / "train"):
        return _read_pictures(path)
    layouts = "npz, CIFAR-10 archive or folder, idx files, or train/<class> and test/<class>"
    raise InputError("image data", got=f"{path}, of no known layout", expected=layouts)


def digits() -> ImageData:
    """1,797 handwritten digits of 8 x 8 pixels, 0 ... 16; SOURCES.md says from where they are."""
    with as_file(files("zopde.data") / "digits.npz") as path, np.load(path) as stored:
        pixels, labels = stored["images"], stored["labels"]
    test = np.arange(len(labels)) % 5 == 4  # every fifth one
    train = Images.of(pixels[~test], labels[~test])
    return ImageData("digits", train, Images.of(pixels[test], labels[test]), _numbers(10))


# --- NumPy archives: pixels (n, y, x) or (n, channel, y, x), labels (n,) ---

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def _read_npz(path: Path) -> ImageData:
    with reading("image data", path, "a complete npz of plain arrays"):
        if not zipfile.is_zipfile(path):  # NumPy would call anything else a pickle
            raise zipfile.BadZipFile("another file, or half of one")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ARRAYS if name in stored}
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise InputError(f"image data {path}", got=f"no {missing[0]}", expected=", ".join(_ARRAYS))
    train = Images.of(arrays["x_train"], arrays["y_train"])
    test = Images.of(arrays["x_test"], arrays["y_test"])
    unseen = sorted({*test.labels.tolist()} - {*train.labels.tolist()})
    if unseen:
        log.warning("%s: y_test has class %s, which y_train has not", path, unseen[0])
    count = 1 + int(max(train.labels.max(), test.labels.max()))
    return ImageData(path.stem, train, test, _numbers(count))


# --- CIFAR-10, the binary version: records of a label and the pixels, plane by plane ---

_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = "test_batch.bin"
_PICKLED = "data_batch_1"
_SHAPE = (3, 32, 32)
_RECORD = 1 + math.prod(_SHAPE)
_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_CLASSES = tuple(_NAMES.split())


def _read_cifar(path: Path) -> ImageData:
    contents = _cifar_files(path)
    missing = [name for name in (*_TRAIN, _TEST) if name not in contents]
    if missing:
        pickled = _PICKLED in contents
        raise InputError(
            f"CIFAR-10 in {path}",
            got="the pickled version" if pickled else f"no {missing[0]}",
            expected="the binary version: five data_batch_N.bin, one test_batch.bin",
            remedy="`zopde data fetch cifar10` gets cifar-10-binary.tar.gz" if pickled else "",
        )
    batches = [_cifar_batch(name, contents[name]) for name in (*_TRAIN, _TEST)]
    pixels, labels = map(np.concatenate, zip(*batches[:-1], strict=True))
    return ImageData("CIFAR-10", Images.of(pixels, labels), Images.of(*batches[-1]), _CLASSES)


def _cifar_files(path: Path) -> dict[str, bytes]:
    """The batches at a path by name, and one that shows the pickled version."""
    wanted, folder = (*_TRAIN, _TEST, _PICKLED), _cifar_folder(path)
    if folder is not None:
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.name in wanted}
    contents = {}
    remedy = "`zopde data fetch cifar10` gets and checks it"
    with (
        reading("image data", path, "a complete CIFAR-10 archive", remedy),
        tarfile.open(path) as archive,
    ):
        for member in archive:
            name = PurePosixPath(member.name).name
            if name in wanted and (stream := archive.extractfile(member)):
                contents[name] = stream.read()
    return contents


def _cifar_folder(path: Path) -> Path | None:
    """The folder itself, or the one inside it that the archive makes."""
    folders = (path, path / "cifar-10-batches-bin", path / "cifar-10-batches-py")
    return next((folder for folder in folders if list(folder.glob("data_batch_1*"))), None)


def _cifar_batch(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not content or len(content) % _RECORD:
        expected = f"a multiple of {_RECORD:,}: whole images"
        raise InputError(name, got=f"{len(content):,} bytes", expected=expected)
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    if records[:, 0].max() >= len(_CLASSES):
        raise InputError(name, got="labels of no class", expected=f"0 ... {len(_CLASSES) - 1}")
    return records[:, 1:].reshape(-1, *_SHAPE), records[:, 0]


# --- idx files: {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or with .gz ---

_BYTES = 0x08  # the type code of unsigned bytes


def _read_idx(path: Path) -> ImageData:
    def images(part: str) -> Images:
        pixels = _idx_array(path, f"{part}-images-idx3-ubyte", 3)
        return Images.of(pixels, _idx_array(path, f"{part}-labels-idx1-ubyte", 1))

    train, test = images("train"), images("t10k")
    return ImageData(path.name, train, test, _numbers(1 + int(train.labels.max())))


def _idx_array(folder: Path, name: str, axes: int) -> np.ndarray:
    path = _idx_file(folder, name)
    if path is None:
        raise InputError(f"idx files in {folder}", got=f"no {name}", expected="all four files")
    with reading("image data", path, "a complete idx file"):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    start = 4 + 4 * axes
    if len(data) < start or data[:4] != bytes((0, 0, _BYTES, axes)):
        expected = f"unsigned bytes of {axes} axes"
        raise InputError(f"idx file {path}", got="another header", expected=expected)
    shape = tuple(np.frombuffer(data, ">u4", axes, offset=4).tolist())
    if len(data) - start != math.prod(shape):
        got, expected = f"{len(data) - start:,} bytes of data", f"{math.prod(shape):,}"
        raise InputError(f"idx file {path}", got=got, expected=f"{expected} for shape {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _idx_file(folder: Path, name: str) -> Path | None:
    candidates = [folder / name, folder / f"{name}.gz", folder / name.replace("-idx", ".idx")]
    return next((path for path in candidates if path.is_file()), None)


# --- pictures in train/<class>/ and test/<class>/; classes in alphabetical order ---

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


def _read_pictures(path: Path) -> ImageData:
    """Pictures as `picture` gives them; all are of the kind and size of the first."""
    train = path / "train"
    test = next((path / n for n in ("test", "val", "validation") if (path / n).is_dir()), None)
    if test is None:
        raise InputError(f"image data {path}", got="no folder test", expected="train and test")
    classes = _folders_in(train)
    unknown = sorted({*_folders_in(test)} - {*classes})
    if unknown:
        got = f"class {unknown[0]!r}"
        raise InputError(f"image data {test}", got=got, expected="those of train")
    first = _files_in(train / classes[0])[0]
    shown, unseen = (_labelled_pictures(folder, classes, first) for folder in (train, test))
    return ImageData(path.name, shown, unseen, classes)


def _labelled_pictures(folder: Path, classes: tuple[str, ...], first: Path) -> Images:
    pictures: list[np.ndarray] = []
    labels: list[int] = []
    expected = _kind(_picture(first))
    for label, name in enumerate(classes):
        for path in _files_in(folder / name):
            pictures.append(_picture(path))
            labels.append(label)
            got = _kind(pictures[-1])
            if got != expected:
                what = f"picture {path}"
                raise InputError(what, got=got, expected=f"{expected}, as {first}")
    pixels = np.stack(pictures)
    pixels = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, 3, 1)
    # In memory as in shape: layers take other ways, with other round-off, where it is not so.
    pixels = np.ascontiguousarray(pixels)
    return Images(torch.from_numpy(pixels), torch.tensor(labels))


def _kind(pixels: np.ndarray) -> str:
    colours = "gray" if pixels.ndim == 2 else "RGB"
    return f"{pixels.shape[1]} x {pixels.shape[0]} pixels, {colours}, {pixels.dtype}"


def _folders_in(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(f.name for f in _shown_in(folder) if f.is_dir()))


def _files_in(folder: Path) -> list[Path]:
    pictures = sorted(entry for entry in _shown_in(folder) if entry.suffix.lower() in _ENDINGS)
    if not pictures:
        raise InputError(f"image data {folder}", got="no pictures", expected="some of each class")
    return pictures


def _shown_in(folder: Path) -> list[Path]:
    """What is in a folder but for what systems and programs hide there."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return [f for f in entries if not f.name.startswith((".", "__MACOSX", "@eaDir"))]


def _picture(path: Path) -> np.ndarray:
    with (
        reading("image data", path, "one whole picture that keeps its numbers"),
        Image.open(path) as image,
    ):
        return picture(image)


def _numbers(count: int) -> tuple[str, ...]:
    """Classes that have no other names."""
    return tuple(map(str, range(count)))
