"""Make a classifier that only answers queries certifiably robust.

    python examples/08_defence.py

The classifier is NumPy code that compares a digit with the mean image of each class; nothing can
be back-propagated through it. A denoiser in front of it is trained by mean square alone (MSE),
which asks the classifier nothing, then by random directions at the classifier's input (ZO-DS) and
by queries of the denoiser's own weights (DeepZero), both with the same budget. Randomized
smoothing then certifies each: no change of an image by less than the radius changes the answer.
`zopde defend` is this in earnest.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zopde import Smooth, load_defence, load_defended, load_images, run_defence

SETTINGS = {
    "defence": {"sigma": 0.5},
    "pretraining": {"denoiser": "100 iterations"},
    "training": {"queries": 60_000, "lr": {"ZO-DS": 1e-3, "DeepZero": 5e-3}},
    "certify": {"images": 60, "n": 500},
    "run": {"methods": ["none", "MSE", "ZO-DS", "DeepZero"]},
}


class NearestMean:
    """Scores of an image: minus its squared distance from the mean image of each class."""

    def __init__(self) -> None:
        train = load_images("").train
        pixels = train.pixels.numpy().reshape(len(train), -1) / 16
        labels = train.labels.numpy()
        self._means = np.stack([pixels[labels == c].mean(axis=0) for c in range(10)])
        self.asked = 0

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 1, 8, 8), pixels in [0, 1] -> (n, 10)."""
        flat = images.detach().numpy().reshape(len(images), -1)
        self.asked += len(flat)
        away = (flat**2).sum(axis=1)[:, None] - 2 * flat @ self._means.T
        scores = -(away + (self._means**2).sum(axis=1))
        return torch.from_numpy(scores).to(images)


def main() -> dict[str, float]:
    """Train, certify, and ask the best for one radius by hand."""
    classifier = NearestMean()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        metrics = run_defence(load_defence(tables=SETTINGS), folder, classifier=classifier)
        found = {method: metrics["certified"][method][1]["mean"] for method in metrics["methods"]}
        model = folder / "DeepZero" / "seed-0" / "model.safetensors"
        defended = load_defended(model, classifier)
    image = load_images("").test.pixels[0] / 16
    smooth = Smooth(defended, defended.classes, defended.sigma)
    certificate = smooth.certify(image, 100, 2000, 0.001, torch.Generator().manual_seed(0))
    found["radius of one image"] = certificate.radius
    found["queries of DeepZero"] = metrics["queries"]["DeepZero"]
    return found


if __name__ == "__main__":
    for label, value in main().items():
        print(f"{label:<20} {value:.3f}")
