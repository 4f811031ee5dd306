"""Batches of images, in an order that a resumed run can recompute."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.data.images import Images
from zopde.errors import InputError
from zopde.seeding import generator
from zopde.validate import check_count


@final
class ImageBatches:
    """The training images, shuffled anew every epoch, moved and mirrored at random.

    Batch `at(i)` is a function of (seed, i) alone. The last batch of an epoch holds what is
    left over.

    Args:
        images: The training images.
        batch: Images at a time; an epoch of fewer is one batch.
        seed: Decides order, crops and flips.
        pad: Pixels of zeros around an image before a random crop of its old size; 0: none.
        flip: Whether half of the images are mirrored, left to right.

    Raises:
        InputError: If `batch` is not positive or `pad` negative.
    """

    def __init__(
        self, images: Images, batch: int, seed: int, pad: int = 0, flip: bool = False
    ) -> None:
        check_count("batch", batch)
        if pad < 0:
            raise InputError("pad", got=pad, expected="a number of pixels >= 0")
        self._images = images
        self._batch = batch
        self._seed = seed
        self._pad = pad
        self._flip = flip

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._images) // self._batch)

    def at(self, iteration: int) -> tuple[Shaped[Tensor, "batch channel y x"], Tensor]:
        """Pixels, in the units of the file, and labels of a batch."""
        epoch, place = divmod(iteration, self.per_epoch)
        order = torch.randperm(len(self._images), generator=generator(self._seed, "order", epoch))
        chosen = order[place * self._batch : (place + 1) * self._batch]
        draw = generator(self._seed, "augment", iteration)
        pixels = self._images.pixels[chosen]
        if self._pad:
            pixels = padded_crops(pixels, self._pad, draw)
        if self._flip:
            pixels = flips(pixels, draw)
        return pixels, self._images.labels[chosen]


def padded_crops(
    pixels: Shaped[Tensor, "batch channel y x"], pad: int, draw: Generator
) -> Shaped[Tensor, "batch channel y x"]:
    """Every image moved by up to `pad` pixels along each axis; zeros come in at the border."""
    batch, _, height, width = pixels.shape
    moves = torch.randint(2 * pad + 1, (2, batch), generator=draw)
    wide = F.pad(pixels, (pad, pad, pad, pad))
    rows = moves[0][:, None] + torch.arange(height)
    columns = moves[1][:, None] + torch.arange(width)
    which = torch.arange(batch)[:, None, None]
    found = wide.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2).contiguous()


def flips(
    pixels: Shaped[Tensor, "batch channel y x"], draw: Generator
) -> Shaped[Tensor, "batch channel y x"]:
    """Every image mirrored, left to right, with probability 1/2."""
    mirrored = torch.rand(len(pixels), generator=draw) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(-1), pixels)


def standardised(
    pixels: Shaped[Tensor, "batch channel y x"],
    mean: Float[Tensor, " channel"],
    deviation: Float[Tensor, " channel"],
) -> Float[Tensor, "batch channel y x"]:
    """(pixels - mean) / deviation, channel by channel, in the precision of `mean`."""
    return (pixels.to(mean) - mean[:, None, None]) / deviation[:, None, None]
