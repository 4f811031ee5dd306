"""What decides a certification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zopde.smoothing import thresholds
from zopde.studies import limits
from zopde.studies.settings import check_fields, check_names
from zopde.validate import check_device


@dataclass(frozen=True)
class CertifyConfig:
    """All settings of a certification, checked when it is built: a model, images, the sampling.

    Raises:
        InputError: If a value is outside its legal range.
    """

    model: limits.Text  # as `load_base_classifier` takes it
    data: limits.Text = ""  # images as `load_images` takes them; "" for the embedded digits
    part: Literal["test", "train"] = "test"  # which of them: "test" or "train"
    # A pixel of the file is divided by this before noise is added and the model sees it; 0: the
    # brightest training pixel, so that the model's input lies in [0, 1]
    scale: limits.NotNegative = 0.0
    # Standard deviation of the noise, in the units of the model's input
    sigma: limits.Positive = 0.25
    n0: limits.Count = 100  # samples that choose the class
    # Samples that bound its probability; with `decide` no more than these
    n: limits.Count = 10_000
    alpha: limits.Probability = 0.001  # probability with which a certificate may be wrong
    # Radii of which each is decided, by as few samples as that takes; none: the radius is sought
    decide: tuple[limits.NotNegative, ...] = ()
    batch: limits.Count = 1000  # samples that are classified at a time
    every: limits.Count = 1  # only every so many images
    images: limits.Whole = 0  # at most so many images; 0: all
    # Decides the noise; that of an image depends on it and the image's index alone
    seed: limits.Seed = 0
    device: limits.Text = "cpu"  # where the model computes

    def __post_init__(self) -> None:
        check_fields(self)
        check_device("device", self.device)
        if self.decide:
            check_names("decide", self.decide)
            thresholds(self.decide, self.sigma, self.alpha, self.n)
