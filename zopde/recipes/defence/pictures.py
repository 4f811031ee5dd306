"""The pictures of a defence run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from zopde.recipes.defence.blackbox import Classifier
from zopde.recipes.defence.judge import Verdict
from zopde.recipes.defence.parts import Defence
from zopde.recipes.defence.problem import Problem
from zopde.report.defence import Row, save_certified, save_images
from zopde.seeding import generator

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
        rows.append(Row(name, pixels.cpu().numpy(), named, right))
    save_images(root / "images.png", rows)
