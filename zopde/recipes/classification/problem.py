"""Images and networks of a classification run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zopde.data import ImageBatches, ImageData, standardised
from zopde.data.images import Images, per_class
from zopde.errors import InputError, first_line
from zopde.recipes.classification.config import ClassificationConfig
from zopde.recipes.classification.networks import build_network
from zopde.seeding import generator
from zopde.training import CrossEntropy


@dataclass(frozen=True)
class Problem:
    """What is to be classified.

    Args:
        data: The images.
        mean: (channel,), of the training images, on the run's device.
        deviation: (channel,), likewise.
    """

    data: ImageData
    mean: Tensor
    deviation: Tensor

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network gets for some pixels."""
        return standardised(pixels.to(self.mean.device), self.mean, self.deviation)

    def objective(self, pixels: Tensor, labels: Tensor) -> CrossEntropy:
        """The loss on some images."""
        return CrossEntropy(self.inputs(pixels), labels.to(self.mean.device))

    def digest(self) -> str:
        """A checksum of all images and labels."""
        digest = hashlib.sha256()
        for part in (self.data.train, self.data.test):
            for tensor in (part.pixels, part.labels):
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def problem_of(config: ClassificationConfig, data: ImageData) -> Problem:
    """The data, ready for the run's device."""
    mean, deviation = data.scale()
    return Problem(data, mean.to(config.run.device), deviation.to(config.run.device))


def batches(config: ClassificationConfig, problem: Problem, seed: int) -> ImageBatches:
    """The training batches of a seed; the same for every method."""
    images = config.data
    return ImageBatches(problem.data.train, config.training.batch, seed, images.pad, images.flip)


def scoring_images(config: ClassificationConfig, problem: Problem, seed: int) -> Images:
    """`zo.score_images` training images of each class, drawn by the seed."""
    train = problem.data.train
    order = torch.randperm(len(train), generator=generator(seed, "scores", 1))
    mixed = Images(train.pixels[order], train.labels[order])
    chosen = per_class(mixed, config.zo.score_images)
    return Images(mixed.pixels[chosen], mixed.labels[chosen])


def new_classifier(config: ClassificationConfig, problem: Problem, seed: int) -> nn.Module:
    """An untrained network in train mode; the same for every method of a seed.

    Raises:
        InputError: If it cannot be built, or does not map images to as many logits as classes.
    """
    network, data = config.network, problem.data
    # torch's initialisers read the global stream: set it from ours, and put it back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        try:
            built = build_network(network.kind, data.channels, len(data.classes), network.sizes)
            built.eval()
            with torch.no_grad():
                answer = built(torch.zeros(2, *data.train.pixels.shape[1:]))
        except Exception as error:  # a user's module may raise anything
            if isinstance(error, InputError):
                raise
            raise InputError(
                "network",
                got=f"{network.kind!r} with sizes {network.sizes}: {first_line(error)}",
                expected=f"a network for images {tuple(data.train.pixels.shape[1:])}",
            ) from error
    if not isinstance(answer, Tensor) or answer.shape != (2, len(data.classes)):
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise InputError("network", got=f"an answer {shape}", expected="(batch, classes)")
    return built.train().to(config.run.device)
