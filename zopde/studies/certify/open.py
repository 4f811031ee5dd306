"""From the settings of a certification to images and a smoothed classifier: here they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.data import ImageData, in_unit_range, load_images
from zopde.data.images import Images
from zopde.errors import InputError, SolverError, first_line
from zopde.files import digest_of
from zopde.progress import Progress
from zopde.smoothing import Smooth, votes
from zopde.studies.certificates import RADII, Sampling
from zopde.studies.certify.settings import CertifyConfig
from zopde.studies.classifiers import content_of, to_device
from zopde.studies.defended import load_base_classifier
from zopde.studies.run import Trainings
from zopde.validate import check_not_negative

LABEL = "certificates"  # the one row of a certification: nothing is trained
MODEL, DATA = "model.digest", "data.sha256"


@dataclass(frozen=True)
class Opened(Trainings):
    """A certification that is ready to begin."""

    name: str  # of the data
    part: str  # of the data: "test" or "train"
    images: Images  # that part
    chosen: tuple[int, ...]  # numbers of the images in it that are certified
    scale: float  # what a pixel of the file is divided by
    smooth: Smooth  # the smoothed classifier
    sampling: Sampling  # how an image is certified
    at: tuple[float, ...]  # radii of the table of results
    model: str  # name of the classifier
    model_digest: str  # its content
    device: str  # where it computes

    @property
    def records(self) -> dict[str, tuple[str, str]]:
        """A resumption must see the same images and the same model."""
        chosen = list(self.chosen)
        digest = digest_of((self.images.pixels[chosen], self.images.labels[chosen]))
        return {DATA: (digest, "images"), MODEL: (self.model_digest, f"model {self.model}")}

    def inputs(self, index: int) -> Float[Tensor, "channel y x"]:
        """What the model gets for an image."""
        return in_unit_range(self.images.pixels[index].to(self.device), self.scale)


def open_certification(
    config: CertifyConfig,
    root: Path,
    progress: Progress,  # noqa: ARG001 - other studies make data
    data: ImageData | None = None,
    at: Sequence[float] = (),
) -> Opened:
    """The images, `data` or the settings', and the classifier, which has answered for one.

    The table of results is to have the radii `at`; () are those decided, or `RADII`.
    """
    _check_shown(at, config.decide)
    data = data or load_images(config.data)
    images = data.test if config.part == "test" else data.train
    scale = config.scale or data.brightest()
    classifier = to_device(load_base_classifier(config.model, scale), config.device)
    opened = Opened(
        data.name,
        config.part,
        images,
        tuple(range(0, len(images), config.every))[: config.images or None],
        scale,
        Smooth(classifier, len(data.classes), config.sigma),
        Sampling(config.n0, config.n, config.alpha, config.batch, config.decide),
        tuple(at) or config.decide or RADII,
        config.model,
        content_of(config.model, root / MODEL),
        config.device,
        labels=(LABEL,),
        seeds=(config.seed,),  # it decides the noise
    )
    _try(opened)
    return opened


def _check_shown(at: Sequence[float], decided: Sequence[float]) -> None:
    """Require radii of which something will be known."""
    for radius in at:
        check_not_negative("radius", radius)
        if decided and radius not in decided:
            expected = f"one that is decided: {', '.join(f'{each:g}' for each in decided)}"
            raise InputError(
                "radius", got=f"{radius:g}", expected=expected, remedy="decide it, too"
            )


@torch.no_grad()
def _try(opened: Opened) -> None:
    """One answer now, rather than an error among the samples."""
    batch = opened.inputs(opened.chosen[0]).expand(2, -1, -1, -1).clone()
    try:
        answer = opened.smooth.base_classifier(batch)
    except (InputError, SolverError):
        raise
    except Exception as error:  # a user's model may raise anything
        got = f"{type(error).__name__}: {first_line(error)}"
        expected = f"an answer for images {tuple(batch.shape)}"
        raise InputError(f"model {opened.model!r}", got=got, expected=expected) from error
    votes(answer, 2, opened.smooth.num_classes)
