"""The classifier of a defence run: a file, a name, an address, or one trained for it.

A classifier behind a network address.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final
from urllib.parse import urlsplit

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zopde.data import in_file_units
from zopde.errors import ClassifierError, InputError, first_line
from zopde.files import identity_of as files_identity
from zopde.plugins import load_object
from zopde.session import AnswerError, Session
from zopde.studies.classify.network import load_classifier
from zopde.validate import check_count, check_not_negative, check_positive

Classifier = Callable[[Tensor], Any]
"""Images (n, channel, y, x), pixels in [0, 1] -> (n, class) scores, or (n,) labels."""


@dataclass(frozen=True)
class ClassifierSettings:
    """The classifier that is defended, a black box to every method but FO-DS and FO-AE-DS.

    `spec` is a model.safetensors of `zopde classify`, "package.module:name", "file.py:name"
    (an `nn.Module`, its class, or any function) or "http://host:port/path"; all but the first
    get pixels in [0, 1]. "" trains one on the clean images first, by back-propagation, as
    `zopde classify` does with the preset `train` and the settings `changes`.

    `answers` says what it gives: "logits", "probabilities" or "labels"; labels become scores by
    `votes` queries each under noise of deviation `vote_sigma`. `price` is of one image, in any
    currency.
    """

    spec: str = ""
    train: str = "quick"
    changes: tuple[str, ...] = ()
    answers: Literal["logits", "probabilities", "labels"] = "logits"
    votes: int = 0
    vote_sigma: float = 0.1
    price: float = 0.0
    timeout: float = 60.0
    retries: int = 2


@final
class HttpClassifier:
    """Images to scores or labels by JSON.

        POST url  {"images": [[[[...]]]]}   pixels in [0, 1], (n, channel, y, x)
        answer    {"scores": [[...]]}  or  {"labels": [...]}  or  {"error": ...}

    A broken connection is made anew, at most `retries` times; silence and an error end the run,
    which `--resume` continues.

    Args:
        url: "http://host:port/path" or "https://...".
        timeout: Seconds for which the server may be silent, > 0.
        retries: How often a request is sent again after the connection broke, >= 0.
        at_once: Images of a request at most.

    Raises:
        InputError: If the address is none, or a number is out of range.
    """

    def __init__(
        self, url: str, timeout: float = 60.0, retries: int = 2, at_once: int = 256
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise InputError("classifier", got=repr(url), expected="http://host:port/path")
        check_positive("timeout", timeout)
        check_not_negative("retries", retries)
        check_count("at_once", at_once)
        self._session = Session(f"{parts.scheme}://{parts.netloc}", timeout, retries)
        self._path, self._at_once = parts.path or "/", at_once

    def __call__(self, images: Float[Tensor, "n channel y x"]) -> Tensor:
        """(n, class) scores, or (n,) labels.

        Raises:
            ClassifierError: If no answer came, or one that is none.
        """
        return torch.cat([self._one(part) for part in images.split(self._at_once)])

    def _one(self, images: Tensor) -> Tensor:
        try:
            answer = self._session.post(self._path, {"images": images.cpu().tolist()})
            said = answer["scores"] if "scores" in answer else answer["labels"]
            return torch.tensor(said)
        except (AnswerError, KeyError, TypeError, ValueError) as error:
            raise ClassifierError(str(error)) from error


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
        logits: Tensor = self.body(in_file_units(x, self.scale))
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


def frozen(classifier: nn.Module) -> nn.Module:
    """In eval mode, its weights no parameters of any training."""
    return classifier.eval().requires_grad_(False)


def identity_of(settings: ClassifierSettings, path: Path | None) -> str:
    """Who a classifier is, for a store of its answers: its name, and its file's content."""
    named = path, Path(settings.spec), Path(settings.spec.rpartition(":")[0])
    files = [name for name in named if name is not None and name.is_file()]
    return files_identity(f"{settings.spec} {settings.answers}", files)


def is_white(classifier: Classifier) -> bool:
    """Whether back-propagation can pass."""
    return isinstance(classifier, nn.Module)


def to_device(classifier: Classifier, device: str) -> Classifier:
    """A module moved to the run's device; anything else looks after itself."""
    return classifier.to(torch.device(device)) if isinstance(classifier, nn.Module) else classifier
