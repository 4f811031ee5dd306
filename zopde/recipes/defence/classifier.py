"""The classifier of a defence run: a file, a name, an address, or one trained for it."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zopde.data import ImageData
from zopde.errors import InputError, first_line
from zopde.plugins import load_object
from zopde.progress import Progress
from zopde.recipes.classification import load_classifier, run_classification
from zopde.recipes.defence.blackbox import Classifier
from zopde.recipes.defence.config import ClassifierSettings, DefenceConfig
from zopde.recipes.defence.http import HttpClassifier

VENDOR = "classifier"  # folder of the one that is trained in the run


@final
class Scaled(nn.Module):
    """A classifier of pixels in the units of a file, given pixels in [0, 1].

    Args:
        body: The classifier.
        scale: The file's brightest pixel.
    """

    def __init__(self, body: nn.Module, scale: float) -> None:
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch class"]:
        """Logits."""
        logits: Tensor = self.body(x * self.scale)
        return logits


def named_classifier(settings: ClassifierSettings, scale: float) -> Classifier:
    """The classifier that `spec` names.

    Args:
        settings: With a spec.
        scale: For a model.safetensors, whose pixels are in the units of its file.

    Raises:
        InputError: If there is none, or it cannot be built.
    """
    spec = settings.spec
    if spec.startswith(("http://", "https://")):
        return HttpClassifier(spec, settings.timeout, settings.retries)
    if spec.endswith(".safetensors"):
        return frozen(Scaled(load_classifier(spec), scale))
    found = load_object(spec, what="classifier")
    try:
        made = found() if inspect.isclass(found) else found
    except Exception as error:  # a user's constructor may raise anything
        raise InputError(
            f"classifier {spec!r}",
            got=f"{type(error).__name__}: {first_line(error)}",
            expected="a class that builds without arguments, a module or a function",
        ) from error
    if not callable(made):
        raise InputError(f"classifier {spec!r}", got=type(made).__name__, expected="a callable")
    return frozen(made) if isinstance(made, nn.Module) else made


def as_vendor(classifier: Classifier, settings: ClassifierSettings) -> Classifier:
    """A classifier of logits that tells what `settings.answers` says, and no more."""
    if settings.answers == "labels":
        return lambda images: classifier(images).argmax(dim=1)
    if settings.answers == "probabilities" and isinstance(classifier, nn.Module):
        return nn.Sequential(classifier, nn.Softmax(dim=1)).eval()
    return classifier


def trained_classifiers(
    config: DefenceConfig, data: ImageData, root: Path, resume: bool, progress: Progress
) -> None:
    """Train the classifier of every seed on the clean images, by back-propagation."""
    folder = root / VENDOR
    resume = resume and (folder / "config.toml").exists()
    run_classification(config.vendor(), folder, resume, False, progress, data)


def trained_file(root: Path, seed: int) -> Path:
    """Where `trained_classifiers` put that of a seed."""
    return root / VENDOR / "FO" / f"seed-{seed}" / "model.safetensors"


def frozen(classifier: nn.Module) -> nn.Module:
    """In eval mode, its weights no parameters of any training."""
    return classifier.eval().requires_grad_(False)


def identity_of(settings: ClassifierSettings, path: Path | None) -> str:
    """Who a classifier is, for a store of its answers: its name, and its file's content."""
    whole = hashlib.blake2b(f"{settings.spec} {settings.answers}".encode(), digest_size=16)
    for name in (path, Path(settings.spec), Path(settings.spec.rpartition(":")[0])):
        if name is not None and name.is_file():
            whole.update(name.read_bytes())
    return whole.hexdigest()


def is_white(classifier: Classifier) -> bool:
    """Whether back-propagation can pass."""
    return isinstance(classifier, nn.Module)


def to_device(classifier: Classifier, device: str) -> Classifier:
    """A module moved to the run's device; anything else looks after itself."""
    return classifier.to(torch.device(device)) if isinstance(classifier, nn.Module) else classifier
