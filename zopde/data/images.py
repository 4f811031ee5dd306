"""Labelled images, held in memory as they were stored, and how their pixels are scaled."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from PIL import Image
from torch import Tensor

from zopde.errors import InputError, first_line

log = logging.getLogger(__name__)

_FEW = (1, 3, 4)  # channels of a picture: gray, colours, colours and another
_EXACT = 2**24  # whole numbers up to here are exact in float32
_PAGES = ("GIF", "PNG", "TIFF", "WEBP")  # may hold several pictures; a phone's JPEG has a preview


@dataclass(frozen=True)
class Images:
    """Images, and the class of each.

    Raises:
        InputError: If the shapes do not belong together, there are no images, or a value is
            not finite.
    """

    # (image, channel, y, x), bytes or floating-point numbers, in the units of the file
    pixels: Shaped[Tensor, "image channel y x"]
    labels: Int[Tensor, " image"]  # (image,) int64, counted from 0

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if self.pixels.dim() != 4 or not self.pixels.numel():
            raise InputError("images", got=f"shape {shape}", expected="(image, channel, y, x)")
        if self.labels.shape != shape[:1]:
            got = f"shape {tuple(self.labels.shape)}"
            raise InputError("labels", got=got, expected=f"({shape[0]},)")
        if self.labels.dtype != torch.int64:
            raise InputError("labels", got=f"{self.labels.dtype}", expected="torch.int64")
        if self.pixels.is_floating_point():
            if not bool(self.pixels.isfinite().all()):
                raise InputError("images", got="values not finite", expected="finite numbers")
        elif self.pixels.dtype != torch.uint8:
            raise InputError("images", got=f"{self.pixels.dtype}", expected="uint8 or floating")

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, pixels: Any, labels: Any) -> Self:  # noqa: ANN401 - arrays of any kind
        """From arrays (image, y, x) or (image, channel, y, x), and labels of any integer type.

        Channels that come last, 1, 3 or 4 of them, are brought to the front. Whole numbers other
        than bytes become float32.

        Raises:
            InputError: As for `Images`; or if channels may be first or last, or numbers are not
                exact in float32.
        """
        array = _channels_in_front(np.asarray(pixels))
        try:
            pixels = torch.tensor(np.ascontiguousarray(_exact(array)))
        except (TypeError, ValueError) as error:
            expected = "bytes, or numbers that float32 can hold"
            raise InputError("images", got=first_line(error), expected=expected) from error
        labels = np.asarray(labels)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            got = f"{labels.dtype} of shape {labels.shape}"
            raise InputError("labels", got=got, expected="whole numbers (n,)")
        with_channel = pixels[:, None] if pixels.dim() == 3 else pixels
        return cls(with_channel, torch.tensor(labels, dtype=torch.int64))

    @classmethod
    def from_dataset(cls, dataset: Any) -> Self:  # noqa: ANN401 - anything with len and items
        """Read a whole `torch.utils.data.Dataset` of (image, label) pairs into memory.

        Args:
            dataset: Its images are tensors or arrays (channel, y, x), or Pillow's.

        Raises:
            InputError: If an item is no such pair, or the images differ in shape.
        """
        try:
            items = [dataset[i] for i in range(len(dataset))]
            pixels = torch.stack([_channels_first(image) for image, _ in items])
            labels = torch.tensor([int(label) for _, label in items])
        except (TypeError, ValueError, RuntimeError) as error:
            expected = "(image, label) pairs, all images of one shape"
            raise InputError("dataset", got=first_line(error), expected=expected) from error
        return cls(pixels, labels)


@dataclass(frozen=True)
class ImageData:
    """Images to train on, and others to test on.

    Raises:
        InputError: If the two differ in shape, or a label has no class.
    """

    name: str  # what the data is called
    train: Images  # images that gradients see
    test: Images  # images that they do not
    classes: tuple[str, ...]  # what the labels mean, in their order

    def __post_init__(self) -> None:
        shapes = [tuple(part.pixels.shape[1:]) for part in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise InputError("test images", got=f"shape {shapes[1]}", expected=f"{shapes[0]}")
        kinds = [part.pixels.dtype == torch.uint8 for part in (self.train, self.test)]
        if kinds[0] != kinds[1]:
            got, expected = (f"{part.pixels.dtype}" for part in (self.test, self.train))
            remedy = "give both in the same kind and units"
            raise InputError("test images", got=got, expected=expected, remedy=remedy)
        for name, part in (("train", self.train), ("test", self.test)):
            low, high = int(part.labels.min()), int(part.labels.max())
            if low < 0 or high >= len(self.classes):
                expected = f"values in [0, {len(self.classes)})"
                raise InputError(f"{name} labels", got=f"[{low}, {high}]", expected=expected)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.pixels.shape[1]

    def scale(self) -> tuple[Float[Tensor, " channel"], Float[Tensor, " channel"]]:
        """Mean and standard deviation of every channel over the training images.

        Raises:
            InputError: If a channel is constant.
        """
        count = self.train.pixels[:, 0].numel()
        mean = torch.zeros(self.channels, dtype=torch.float64)
        squares = torch.zeros_like(mean)
        pieces = self.train.pixels.split(4096)  # in double precision all at once would not fit
        for piece in pieces:
            mean += piece.double().sum(dim=(0, 2, 3))
        mean /= count
        for piece in pieces:
            squares += (piece.double() - mean[:, None, None]).square().sum(dim=(0, 2, 3))
        deviation = (squares / count).sqrt()
        if not bool((deviation > 0).all()):
            raise InputError("images", got="a channel of one value", expected="varying pixels")
        return mean.float(), deviation.float()

    def brightest(self) -> float:
        """The largest pixel of the training images, > 0: what `in_unit_range` divides by."""
        most = float(self.train.pixels.max())
        if most <= 0:
            raise InputError("brightest pixel", got=most, expected="> 0", remedy="give a scale")
        return most


def in_unit_range(
    pixels: Shaped[Tensor, "*batch channel y x"], brightest: float
) -> Float[Tensor, "*batch channel y x"]:
    """Bring pixels from the units of their file to [0, 1], in float32: pixels / brightest."""
    return pixels.to(torch.float32) / brightest


def in_file_units(
    pixels: Float[Tensor, "*batch channel y x"], brightest: float
) -> Float[Tensor, "*batch channel y x"]:
    """Bring pixels from [0, 1] back to the units of their file: pixels * brightest."""
    return pixels * brightest


def standardised(
    pixels: Shaped[Tensor, "batch channel y x"],
    mean: Float[Tensor, " channel"],
    deviation: Float[Tensor, " channel"],
) -> Float[Tensor, "batch channel y x"]:
    """Standardise pixels by channel: (pixels - mean) / deviation, in the precision of `mean`."""
    return (pixels.to(mean) - mean[:, None, None]) / deviation[:, None, None]


def _channels_first(image: Any) -> Tensor:  # noqa: ANN401
    if isinstance(image, Image.Image):
        image = picture(image)
        image = image if image.ndim == 2 else np.moveaxis(image, 2, 0)
    tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    return tensor[None] if tensor.dim() == 2 else tensor


def picture(image: Image.Image) -> np.ndarray:
    """Pixels in the units of the file: gray (y, x), in float32 beyond 8 bits; or RGB (y, x, 3).

    Black and white is 0 and 255; a palette, CMYK and the like become RGB.

    Raises:
        ValueError: Where that would lose something: colours of more than 8 bits, transparent
            places, several pictures in a file.
    """
    # How the file holds its pixels; Pillow cuts off what its own modes cannot hold.
    raw = [tile[3] for tile in getattr(image, "tile", ())]
    words = " ".join(map(str, raw))
    ppm = next((r[1] for r in raw if image.format == "PPM" and isinstance(r, tuple)), 0)
    numbers = image.mode.startswith(("I", "F"))
    if getattr(image, "n_frames", 1) > 1 and image.format in _PAGES:
        raise ValueError(f"{image.n_frames} pictures in one file")  # type: ignore[attr-defined]
    if not numbers and (";16" in words or ";32" in words or ppm > 255):
        raise ValueError("colours of more than 8 bits a channel")
    alpha = not numbers and (image.mode.endswith(("A", "a")) or "transparency" in image.info)
    if alpha and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise ValueError("transparent places")
    if numbers:
        array = np.asarray(image)
        if image.mode == "I" and "S" not in words and array.min() < 0:
            raise ValueError("whole numbers of 2^31 and more")
    else:
        array = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB"))
    if ppm:  # Pillow has spread it over all of its own range
        array = np.rint(array * (ppm / (65535 if numbers else 255))).astype(array.dtype)
    return _exact(array)


def _exact(array: np.ndarray) -> np.ndarray:
    """Bytes and floating-point numbers as they are, other whole numbers in float32."""
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        if array.size and max(int(array.max()), -int(array.min())) > _EXACT:
            raise ValueError("whole numbers beyond 2^24, which float32 rounds")
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _channels_in_front(array: np.ndarray) -> np.ndarray:
    """(image, channel, y, x), also of (image, y, x, channel) where the shape leaves no doubt."""
    if array.ndim != 4:
        return array
    first, middle, last = array.shape[1:]
    in_front = first in _FEW and (last not in _FEW or first != middle == last)
    behind = last in _FEW and (first not in _FEW or first == middle != last)
    if behind:
        log.warning("images of shape %s: channels are last; brought to the front", array.shape)
        return np.moveaxis(array, -1, 1)
    many = first not in _FEW and not first == middle > last
    if not (in_front or many or first == middle == last == 1):
        got, expected = (
            f"shape {array.shape}, with channels first or last",
            "(image, channel, y, x)",
        )
        remedy = "numpy.moveaxis(pixels, -1, 1) brings the last axis to the front"
        raise InputError("images", got=got, expected=expected, remedy=remedy)
    return array


def per_class(images: Images, count: int) -> Int[Tensor, " k"]:
    """Numbers of the first `count` images of every label; fewer where there are not so many."""
    labels = images.labels
    firsts = [(labels == label).nonzero().flatten()[:count] for label in labels.unique()]
    return torch.cat(firsts).sort().values
