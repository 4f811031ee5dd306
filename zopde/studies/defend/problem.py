"""Images, noise and networks of a defence run.

The networks of a defence.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zopde.data import ImageBatches, ImageData, in_unit_range
from zopde.data.images import Images
from zopde.errors import InputError
from zopde.files import digest_of
from zopde.nets import Decoder, DnCNN, Encoder
from zopde.seeding import generator, global_stream
from zopde.studies.defend.settings import DefenceConfig


@dataclass(frozen=True)
class Plan:
    """How a defence is built.

    Args:
        channels: Of an image.
        side: Its height and width in pixels.
        depth: Convolutions of the denoiser; 0: no denoiser.
        width: Channels between them.
        latent: Entries of the encoder's output; 0: no autoencoder.
    """

    channels: int
    side: int
    depth: int
    width: int
    latent: int = 0

    def as_tree(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@final
class Front(nn.Module):
    """What is trained, up to the cut: the denoiser, and the encoder where there is one.

    Args:
        denoiser: Images to images.
        encoder: Images to latents; None ends at the image.
    """

    def __init__(self, denoiser: nn.Module, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.encoder = nn.Identity() if encoder is None else encoder

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Tensor:
        """What enters the black box."""
        cut: Tensor = self.encoder(self.denoiser(x))
        return cut


@final
class Defence(nn.Module):
    """Noisy images to images that a classifier can read: decode(encode(denoise(x))).

    Args:
        plan: The sizes.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        denoiser = DnCNN(plan.channels, plan.depth, plan.width) if plan.depth else nn.Identity()
        encoder = Encoder(plan.channels, plan.side, plan.latent) if plan.latent else None
        self.front = Front(denoiser, encoder)
        self.decoder = (
            Decoder(plan.channels, plan.side, plan.latent) if plan.latent else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch channel y x"]:
        """Pixels in the units of x."""
        image: Tensor = self.decoder(self.front(x))
        return image


_TRAINING, _PRETRAINING, _WATCHING = 0, 1, 2  # different noise for each


@dataclass(frozen=True)
class Problem:
    """What is to be defended against, and on which images.

    Args:
        config: The run's settings.
        data: The images, in the units of the file.
        scale: What a pixel is divided by, so that it lies in [0, 1].
    """

    config: DefenceConfig
    data: ImageData
    scale: float

    def inputs(self, pixels: Tensor) -> Float[Tensor, "batch channel y x"]:
        """Pixels in [0, 1] on the run's device."""
        return in_unit_range(pixels.to(self.config.run.device), self.scale)

    def noise(self, like: Tensor, seed: int, kind: int, index: int) -> Tensor:
        """sigma times white noise, a function of (seed, kind, index)."""
        draw = generator(seed, "noise", 3 * index + kind)
        return self.config.defence.sigma * torch.randn(like.shape, generator=draw).to(like)

    def batches(self, seed: int, batch: int) -> ImageBatches:
        """The training batches of a seed; the same for every method."""
        images = self.config.data
        return ImageBatches(self.data.train, batch, seed, images.pad, images.flip)

    def pair(self, batches: ImageBatches, seed: int, index: int, kind: int = _TRAINING) -> Pair:
        """The clean and the noisy images of an iteration."""
        clean = self.inputs(batches.at(index)[0])
        return Pair(clean, clean + self.noise(clean, seed, kind, index))

    def pretraining_pair(self, seed: int, index: int) -> Pair:
        """Those of an iteration of the pre-training."""
        batches = self.batches(seed, self.config.pretraining.batch)
        return self.pair(batches, seed, index, _PRETRAINING)

    def watched(self, seed: int) -> Pair:
        """Training images under noise of their own, by which networks of a seed are compared."""
        train, count = self.data.train, self.config.training.watch_images
        chosen = torch.randperm(len(train), generator=generator(seed, "order", 2**31))[:count]
        clean = self.inputs(train.pixels[chosen])
        return Pair(clean, clean + self.noise(clean, seed, _WATCHING, 0))

    def judged(self) -> Images:
        """The test images that are certified: evenly spread over all."""
        test, count = self.data.test, min(self.config.certify.images, len(self.data.test))
        chosen = torch.arange(count) * len(test) // count
        return Images(test.pixels[chosen], test.labels[chosen])

    def plan(self, latent: bool, denoiser: bool = True) -> Plan:
        """How a defence of these images is built."""
        sizes = self.config.defence
        side = self.data.train.pixels.shape[-1]
        return Plan(
            self.data.channels,
            side,
            sizes.depth if denoiser else 0,
            sizes.width,
            sizes.latent if latent else 0,
        )

    def new_defence(self, seed: int, latent: bool) -> Defence:
        """An untrained one; the denoisers of a seed are alike."""
        with global_stream(generator(seed, "weights")):
            return Defence(self.plan(latent)).to(self.config.run.device)

    def digest(self) -> str:
        """A checksum of all images and labels."""
        parts = self.data.train, self.data.test
        return digest_of(values for part in parts for values in (part.pixels, part.labels))


@dataclass(frozen=True)
class Pair:
    """Images, and the same with noise.

    Args:
        clean: (batch, channel, y, x), pixels in [0, 1].
        noisy: Likewise, plus noise; not clipped.
    """

    clean: Float[Tensor, "batch channel y x"]
    noisy: Float[Tensor, "batch channel y x"]


def problem_of(config: DefenceConfig, data: ImageData) -> Problem:
    """The data, scaled so that the brightest training pixel is 1.

    Raises:
        InputError: If a pixel is negative, or the images are not square.
    """
    pixels = data.train.pixels
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high <= 0:
        raise InputError("pixels", got=f"[{low}, {high}]", expected="values >= 0, some of them > 0")
    if pixels.shape[-1] != pixels.shape[-2]:
        raise InputError("images", got=f"{tuple(pixels.shape[2:])}", expected="square ones")
    return Problem(config, data, high)
