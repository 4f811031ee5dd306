"""Labelled images, held in memory as they were stored, and how their pixels are scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from zopde.errors import InputError, first_line


@dataclass(frozen=True)
class Images:
    """Images, and the class of each.

    Args:
        pixels: (image, channel, y, x), bytes or floating-point numbers, in the units of the file.
        labels: (image,) int64, counted from 0.

    Raises:
        InputError: If the shapes do not belong together, there are no images, or a value is
            not finite.
    """

    pixels: Shaped[Tensor, "image channel y x"]
    labels: Int[Tensor, " image"]

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
        """From arrays (image, y, x) or (image, channel, y, x), and labels of any integer type."""
        pixels, labels = torch.tensor(np.asarray(pixels)), np.asarray(labels)
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

    Args:
        name: What the data is called.
        train: Images that gradients see.
        test: Images that they do not.
        classes: What the labels mean, in their order.

    Raises:
        InputError: If the two differ in shape, or a label has no class.
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        shapes = [tuple(part.pixels.shape[1:]) for part in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise InputError("test images", got=f"shape {shapes[1]}", expected=f"{shapes[0]}")
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
    if isinstance(image, Tensor):
        return image[None] if image.dim() == 2 else image
    array = torch.from_numpy(np.array(image))
    if array.dim() == 2:
        return array[None]
    return array if isinstance(image, np.ndarray) else array.permute(2, 0, 1)


def per_class(images: Images, count: int) -> Int[Tensor, " k"]:
    """Numbers of the first `count` images of every label; fewer where there are not so many."""
    labels = images.labels
    firsts = [(labels == label).nonzero().flatten()[:count] for label in labels.unique()]
    return torch.cat(firsts).sort().values
