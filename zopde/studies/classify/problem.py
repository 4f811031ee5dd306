"""Images and networks of a classification run.

Classifiers by name.

How good a classifier is, at the end and along the way.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.data import ImageBatches, ImageData, standardised
from zopde.data.images import Images, per_class
from zopde.errors import InputError, first_line
from zopde.files import digest_of, replacing
from zopde.nets import CifarResNet, SmallCNN
from zopde.plugins import load_object
from zopde.seeding import generator, global_stream
from zopde.studies.classify.settings import ClassificationConfig
from zopde.training import CrossEntropy

_KINDS: dict[str, type[nn.Module]] = {"cnn": SmallCNN, "resnet": CifarResNet}


def build_network(kind: str, channels: int, classes: int, sizes: dict[str, int]) -> nn.Module:
    """A classifier of images.

    Args:
        kind: "cnn", "resnet", "package.module:Class" or "file.py:Class".
        channels: Of an image.
        classes: How many there are.
        sizes: Further keyword arguments.
    """
    factory = _KINDS.get(kind) or load_object(kind)
    network: nn.Module = factory(channels, classes, **sizes)
    return network


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
        parts = self.data.train, self.data.test
        return digest_of(values for part in parts for values in (part.pixels, part.labels))


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
    with global_stream(generator(seed, "weights")):
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


_BATCH = 500  # of images to be judged


@dataclass(frozen=True)
class Verdict:
    """A network on the test images.

    Args:
        accuracy: Share of right answers, in percent.
        loss: Mean cross-entropy.
        confusion: (class, class), how many images of the row's class got the column's.
    """

    accuracy: float
    loss: float
    confusion: Int[Tensor, "true said"]


@torch.no_grad()
def evaluate(problem: Problem, network: nn.Module) -> Verdict:
    """Judge a network in eval mode: BatchNorm by its running statistics."""
    test, classes = problem.data.test, len(problem.data.classes)
    was_training = network.training
    network.eval()
    confusion, loss = torch.zeros(classes * classes, dtype=torch.int64), 0.0
    for pixels, labels in zip(test.pixels.split(_BATCH), test.labels.split(_BATCH), strict=True):
        logits = network(problem.inputs(pixels)).cpu()
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        confusion += torch.bincount(
            labels * classes + logits.argmax(dim=1), minlength=classes * classes
        )
    network.train(was_training)
    square = confusion.view(classes, classes)
    right = int(square.diagonal().sum())
    return Verdict(100 * right / len(test), loss / len(test), square)


@dataclass(frozen=True)
class Point:
    """A network on the test images after some training.

    Args:
        iteration: Updates made.
        queries: Evaluations of the objective so far.
        seconds: Training time so far.
        accuracy: In percent.
        loss: Mean cross-entropy.
    """

    iteration: int
    queries: int
    seconds: float
    accuracy: float
    loss: float


@final
class LearningCurve:
    """Points of a training, as CSV; those that a resumed training makes again are replaced.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.points: list[Point] = []
        if path.exists():
            with path.open(newline="") as file:
                rows = list(csv.reader(file))[1:]
            self.points = [Point(int(a), int(b), *map(float, rest)) for a, b, *rest in rows]

    def add(self, point: Point) -> None:
        """Keep a point, in a file that is written whole."""
        earlier = [old for old in self.points if old.iteration < point.iteration]
        self.points = [*earlier, point]
        with replacing(self._path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(field.name for field in fields(Point))
            writer.writerows(asdict(kept).values() for kept in self.points)
