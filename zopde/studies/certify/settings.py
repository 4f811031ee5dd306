"""What decides a certification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zopde.studies import limits
from zopde.studies.settings import check_fields
from zopde.validate import check_device


@dataclass(frozen=True)
class CertifyConfig:
    """All settings of a certification, checked when it is built: a model, images, the sampling.

    Args:
        model: As `load_base_classifier` takes it.
        data: Images as `load_images` takes them; "" for the embedded digits.
        part: Which of them: "test" or "train".
        scale: A pixel of the file is divided by this before noise is added and the model sees
            it; 0: the brightest training pixel, so that the model's input lies in [0, 1].
        sigma: Standard deviation of the noise, in the units of the model's input.
        n0: Samples that choose the class.
        n: Samples that bound its probability.
        alpha: Probability with which a certificate may be wrong.
        batch: Samples that are classified at a time.
        every: Only every so many images.
        images: At most so many images; 0: all.
        seed: Decides the noise; that of an image depends on it and the image's index alone.
        device: Where the model computes.

    Raises:
        InputError: If a value is outside its legal range.
    """

    model: limits.Text
    data: limits.Text = ""
    part: Literal["test", "train"] = "test"
    scale: limits.NotNegative = 0.0
    sigma: limits.Positive = 0.25
    n0: limits.Count = 100
    n: limits.Count = 10_000
    alpha: limits.Probability = 0.001
    batch: limits.Count = 1000
    every: limits.Count = 1
    images: limits.Whole = 0
    seed: limits.Seed = 0
    device: limits.Text = "cpu"

    def __post_init__(self) -> None:
        check_fields(self)
        check_device("device", self.device)
