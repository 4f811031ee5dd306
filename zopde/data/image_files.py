"""Image data from whatever lies at a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zopde.data import cifar, idx, image_folder
from zopde.data.image_arrays import digits, read_npz
from zopde.data.images import ImageData
from zopde.errors import InputError

Reader = Callable[[Path], ImageData]

_FORMATS: tuple[tuple[Callable[[Path], bool], Reader], ...] = (
    (lambda path: path.suffix == ".npz", read_npz),
    (cifar.recognises, cifar.read),
    (idx.recognises, idx.read),
    (image_folder.recognises, image_folder.read),
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
