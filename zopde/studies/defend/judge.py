"""What a defence is worth: certified accuracy.

The pictures of a defence run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zopde.data.images import Images
from zopde.report.certification import ImageRow, save_certified, save_images
from zopde.seeding import generator
from zopde.smoothing import Smooth
from zopde.studies.certificates import FILE, Certificates, Row, certified, check_order
from zopde.studies.classifiers import Classifier
from zopde.studies.defend.problem import Defence, Problem

RADII = (0.0, 0.25, 0.5, 0.75)  # of the table, in units of pixels in [0, 1]


@dataclass(frozen=True)
class Verdict:
    """The smoothed classifier on the test images that were judged.

    Args:
        rows: One an image; radii in units of pixels in [0, 1].
    """

    rows: list[Row]

    @property
    def abstained(self) -> int:
        """How many times it gave no answer."""
        return sum(row.prediction < 0 for row in self.rows)

    def share(self, radius: float) -> float:
        """Certified accuracy at a radius, in percent."""
        return 100 * sum(r.correct and r.radius >= radius for r in self.rows) / len(self.rows)


def certify_images(
    problem: Problem,
    images: Images,
    classifier: Callable[[Tensor], Tensor],
    seed: int,
    folder: Path,
    advance: Callable[[], None],
) -> Verdict:
    """Certify every image; the noise of an image is the same for every method of a seed.

    One line is written per image, and what a table has already is not done again.
    """
    smooth = Smooth(classifier, len(problem.data.classes), problem.config.defence.sigma)
    labels = images.labels.tolist()
    folder.mkdir(parents=True, exist_ok=True)
    with closing(Certificates(folder / FILE)) as table:
        check_order(folder / FILE, table.rows, list(enumerate(labels)))
        for i in range(len(table.rows), len(images)):
            x = problem.inputs(images.pixels[i : i + 1])[0].cpu()
            table.add(certified(smooth, x, i, labels[i], seed, problem.config.certify))
            advance()
    return Verdict(table.rows)


@torch.no_grad()
def clean_accuracy(problem: Problem, classifier: Callable[[Tensor], Tensor]) -> float:
    """Of the classifier as it stands, without noise, in percent."""
    images = problem.judged()
    said = torch.as_tensor(classifier(problem.inputs(images.pixels)))
    labels = said.argmax(dim=1) if said.dim() == 2 else said
    return 100 * float((labels.cpu() == images.labels).double().mean())


_SHOWN = 8


@torch.no_grad()
def draw(
    problem: Problem,
    root: Path,
    verdicts: Mapping[str, Sequence[Verdict]],
    defences: Mapping[str, Defence | None],
    classifier: Classifier,
    seed: int,
) -> None:
    """Certified accuracy over the radius, and what each defence makes of some noisy images.

    Args:
        problem: The images.
        root: Folder of the pictures.
        verdicts: Method -> its verdicts, one per seed.
        defences: Method -> that of the first seed.
        classifier: Of the first seed.
        seed: The first.
    """
    curves = {
        name: [([r.radius for r in v.rows], [r.correct for r in v.rows]) for v in each]
        for name, each in verdicts.items()
        if each
    }
    save_certified(root / "certified_accuracy.png", curves, problem.config.defence.sigma)
    images = problem.judged()
    clean = problem.inputs(images.pixels[:_SHOWN])
    noise = torch.randn(clean.shape, generator=generator(seed, "smoothing", 2**31)).to(clean)
    noisy = clean + problem.config.defence.sigma * noise
    shown = {"clean": clean, "noisy": noisy}
    shown |= {name: found(noisy) for name, found in defences.items() if found is not None}
    rows = []
    for name, pixels in shown.items():
        said = torch.as_tensor(classifier(pixels))
        labels = said.argmax(dim=1) if said.dim() == 2 else said
        named = [problem.data.classes[int(label)] for label in labels]
        right = (labels.cpu() == images.labels[: len(pixels)]).tolist()
        rows.append(ImageRow(name, pixels.cpu().numpy(), named, right))
    save_images(root / "images.png", rows)
