"""What a defence is worth: certified accuracy."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zopde.data.images import Images
from zopde.recipes.defence.problem import Problem
from zopde.seeding import generator
from zopde.smoothing import Smooth

RADII = (0.0, 0.25, 0.5, 0.75)  # of the table, in units of pixels in [0, 1]
FILE = "certificates.csv"


@dataclass(frozen=True)
class Verdict:
    """The smoothed classifier on the test images that were judged.

    Args:
        radii: (image,), certified, in units of pixels in [0, 1].
        correct: (image,), whether the prediction is the label.
        abstained: How many times it gave no answer.
    """

    radii: list[float]
    correct: list[bool]
    abstained: int

    def share(self, radius: float) -> float:
        """Certified accuracy at a radius, in percent."""
        held = sum(c and r >= radius for r, c in zip(self.radii, self.correct, strict=True))
        return 100 * held / len(self.radii)


def certify_images(
    problem: Problem,
    images: Images,
    classifier: Callable[[Tensor], Tensor],
    seed: int,
    path: Path,
    advance: Callable[[], None],
) -> Verdict:
    """Certify every image; the noise of an image is the same for every method of a seed.

    One line is written per image, and what a file has already is not done again.
    """
    settings, rows = problem.config.certify, _read(path)
    smooth = Smooth(classifier, len(problem.data.classes), problem.config.defence.sigma)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "label", "prediction", "radius"))
        writer.writerows(rows)
        for i in range(len(rows), len(images)):
            x = problem.inputs(images.pixels[i : i + 1])[0].cpu()
            draw = generator(seed, "smoothing", i)
            found = smooth.certify(x, settings.n0, settings.n, settings.alpha, draw, settings.batch)
            rows.append((i, int(images.labels[i]), found.prediction, found.radius))
            writer.writerow(rows[-1])
            file.flush()
            advance()
    return Verdict(
        [row[3] for row in rows],
        [row[1] == row[2] for row in rows],
        sum(row[2] < 0 for row in rows),
    )


@torch.no_grad()
def clean_accuracy(problem: Problem, classifier: Callable[[Tensor], Tensor]) -> float:
    """Of the classifier as it stands, without noise, in percent."""
    images = problem.judged()
    said = torch.as_tensor(classifier(problem.inputs(images.pixels)))
    labels = said.argmax(dim=1) if said.dim() == 2 else said
    return 100 * float((labels.cpu() == images.labels).double().mean())


def _read(path: Path) -> list[tuple[int, int, int, float]]:
    """The whole lines of an interrupted run."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()[1:]
    return [(int(a), int(b), int(c), float(d)) for a, b, c, d in (x.split(",") for x in lines)]
