"""What decides a certification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zopde.smoothing import check_alpha
from zopde.validate import (
    check_choice,
    check_count,
    check_device,
    check_not_negative,
    check_positive,
)


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

    model: str
    data: str = ""
    part: Literal["test", "train"] = "test"
    scale: float = 0.0
    sigma: float = 0.25
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    batch: int = 1000
    every: int = 1
    images: int = 0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choice("part", self.part, ("test", "train"))
        check_positive("sigma", self.sigma)
        for name in ("n0", "n", "batch", "every"):
            check_count(name, getattr(self, name))
        for name in ("scale", "images", "seed"):
            check_not_negative(name, getattr(self, name))
        check_alpha(self.alpha)
        check_device("device", self.device)
