"""How good a classifier is, at the end and along its training."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.files import read_rows, reading, replacing
from zopde.studies.classify.open import TrainingImages

_BATCH = 500  # of images to be judged


@dataclass(frozen=True)
class Verdict:
    """A network on the test images."""

    accuracy: float  # share of right answers, in percent
    loss: float  # mean cross-entropy
    # (class, class), how many images of the row's class got the column's
    confusion: Int[Tensor, "true said"]


@torch.no_grad()
def evaluate(images: TrainingImages, network: nn.Module) -> Verdict:
    """Judge a network in eval mode: BatchNorm by its running statistics."""
    test, classes = images.data.test, len(images.data.classes)
    was_training = network.training
    network.eval()
    confusion, loss = torch.zeros(classes * classes, dtype=torch.int64), 0.0
    for pixels, labels in zip(test.pixels.split(_BATCH), test.labels.split(_BATCH), strict=True):
        logits = network(images.inputs(pixels)).cpu()
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
    """A network on the test images after some training."""

    iteration: int  # updates made
    queries: int  # evaluations of the objective so far
    seconds: float  # training time so far
    accuracy: float  # in percent
    loss: float  # mean cross-entropy


@final
class LearningCurve:
    """Points of a training, as CSV; those that a resumed training makes again are replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with reading("file", path, "what the run wrote", "start over with --overwrite"):
            rows = read_rows(path)[1:]
            self.points = [Point(int(a), int(b), *map(float, rest)) for a, b, *rest in rows]

    def add(self, point: Point) -> None:
        """Keep a point, in a file that is written whole."""
        earlier = [old for old in self.points if old.iteration < point.iteration]
        self.points = [*earlier, point]
        with replacing(self._path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(field.name for field in fields(Point))
            writer.writerows(asdict(kept).values() for kept in self.points)
