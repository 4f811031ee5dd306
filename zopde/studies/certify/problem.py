"""The images and the smoothed classifier of a certification.

The classifier that is smoothed: a file, a name or an address.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zopde.data import ImageData, in_unit_range, load_images
from zopde.data.images import Images
from zopde.errors import InputError, SolverError, first_line
from zopde.files import digest_of
from zopde.smoothing import BaseClassifier, Smooth, votes
from zopde.studies.certify.settings import CertifyConfig
from zopde.studies.classifiers import ClassifierSettings, named_classifier
from zopde.studies.defend.networks import load_defended
from zopde.studies.model_file import kinds_of


def load_base_classifier(spec: str, scale: float) -> BaseClassifier:
    """The classifier that `spec` names; a module comes in eval mode.

    Args:
        spec: A model.safetensors of `zopde classify`, which wants pixels in the units of their
            file, or of `zopde defend`; "package.module:name" or "file.py:name": a module, a class
            that builds without arguments, or a function; or "http://host:port/path". All but the
            first get pixels over `scale`.
        scale: What the pixels of the file are divided by.

    Raises:
        InputError: If there is none, or it cannot be built.
    """
    if spec.endswith(".safetensors") and "defence" in kinds_of(spec):
        return load_defended(spec)
    return named_classifier(ClassifierSettings(spec=spec), scale)


@dataclass(frozen=True)
class Problem:
    """What is certified.

    Args:
        images: A part of the data.
        chosen: Numbers of the images in it that are looked at.
        scale: What a pixel of the file is divided by.
        smooth: The smoothed classifier.
        name: Of the data.
        device: Where the model computes.
    """

    images: Images
    chosen: tuple[int, ...]
    scale: float
    smooth: Smooth
    name: str
    device: str

    def inputs(self, index: int) -> Float[Tensor, "channel y x"]:
        """What the model gets for an image."""
        return in_unit_range(self.images.pixels[index].to(self.device), self.scale)

    def label(self, index: int) -> int:
        """What an image shows."""
        return int(self.images.labels[index])

    def digest(self) -> str:
        """A checksum of the images that are looked at, and of their labels."""
        chosen = list(self.chosen)
        return digest_of((self.images.pixels[chosen], self.images.labels[chosen]))


def problem_of(config: CertifyConfig, images: ImageData | None = None) -> Problem:
    """The images and the classifier, which has answered for one of them.

    Args:
        config: The settings.
        images: Data of your own; None reads `config.data`.

    Raises:
        InputError: If there are none, or the classifier does not answer for them.
    """
    data = images or load_images(config.data)
    part = data.test if config.part == "test" else data.train
    chosen = tuple(range(0, len(part), config.every))[: config.images or None]
    scale = config.scale or data.brightest()
    model = load_base_classifier(config.model, scale)
    if isinstance(model, nn.Module):
        model = model.to(torch.device(config.device))
    smooth = Smooth(model, len(data.classes), config.sigma)
    problem = Problem(part, chosen, scale, smooth, data.name, config.device)
    _try(problem, config)
    return problem


@torch.no_grad()
def _try(problem: Problem, config: CertifyConfig) -> None:
    """One answer now, rather than an error among the samples."""
    batch = problem.inputs(problem.chosen[0]).expand(2, -1, -1, -1).clone()
    try:
        answer = problem.smooth.base_classifier(batch)
    except (InputError, SolverError):
        raise
    except Exception as error:  # a user's model may raise anything
        raise InputError(
            f"model {config.model!r}",
            got=f"{type(error).__name__}: {first_line(error)}",
            expected=f"an answer for images {tuple(batch.shape)}",
        ) from error
    votes(answer, 2, problem.smooth.num_classes)
