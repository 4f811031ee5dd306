"""Classifiers of images: built by name, kept in a file, found by a spec, behind an address."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from zopde.data import in_file_units, standardised
from zopde.errors import ClassifierError, InputError, StepError, first_line
from zopde.files import identity_of as files_identity
from zopde.identity import imported
from zopde.nets import CifarResNet, SmallCNN
from zopde.plugins import load_object
from zopde.session import Session, is_address
from zopde.studies.model_file import built, named_network, read_model, write_model
from zopde.validate import MOST_SECONDS, check_count, check_not_negative, check_positive, checked

Classifier = Callable[[Tensor], Any]
"""Images (n, channel, y, x), pixels in [0, 1] -> (n, class) scores, or (n,) labels."""

_KINDS: dict[str, type[nn.Module]] = {"cnn": SmallCNN, "resnet": CifarResNet}


def build_classifier(kind: str, channels: int, classes: int, sizes: dict[str, int]) -> nn.Module:
    """A classifier; `kind` is "cnn", "resnet", "package.module:Class" or "file.py:Class"."""
    return (_KINDS.get(kind) or named_network(kind))(channels, classes, **sizes)


@final
class StandardisedClassifier(nn.Module):
    """A network behind its standardisation: from pixels, in the units of the file, to logits."""

    mean: Tensor  # (channel,)
    deviation: Tensor  # (channel,)

    def __init__(
        self, body: nn.Module, mean: Tensor, deviation: Tensor, classes: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.classes = classes  # what the logits mean, in their order

    def forward(
        self, pixels: Shaped[Tensor, "batch channel y x"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        logits: Tensor = self.body(standardised(pixels, self.mean, self.deviation))
        return logits


def save_classifier(
    model: StandardisedClassifier, kind: str, sizes: dict[str, int], channels: int, path: Path
) -> None:
    """Write weights and statistics as safetensors, the architecture in its metadata."""
    plan = {"kind": kind, "sizes": sizes, "channels": channels, "classes": model.classes}
    write_model(path, "classifier", plan, model.state_dict())


@checked
def load_classifier(path: Path | str) -> StandardisedClassifier:
    """Load the classifier of a `model.safetensors`, in eval mode: pixels to logits.

    Args:
        path: A file that a classification run wrote.

    Raises:
        InputError: If the file is missing or no classifier of zopde.
    """
    types = {"kind": str, "sizes": dict[str, int], "channels": int, "classes": tuple[str, ...]}
    plan, state = read_model(path, "classifier", types)
    kind, classes = plan["kind"], plan["classes"]

    def make() -> StandardisedClassifier:
        body = build_classifier(kind, plan["channels"], len(classes), plan["sizes"])
        return StandardisedClassifier(body, state["mean"], state["deviation"], classes)

    return built(path, make, state, ":" not in kind)


@final
class HttpClassifier:
    """Images to scores or labels by JSON.

        POST url  {"images": [[[[...]]]]}   pixels in [0, 1], (n, channel, y, x)
        answer    {"scores": [[...]]}  or  {"labels": [...]}  or  {"error": ...}

    A broken connection is made anew, at most `retries` times; silence and an error end the run,
    which `--resume` continues. The server may be silent for `timeout` seconds; a request holds
    `at_once` images at most.
    """

    def __init__(
        self, url: str, timeout: float = 60.0, retries: int = 2, at_once: int = 256
    ) -> None:
        if not is_address(url):
            raise InputError("classifier", got=repr(url), expected="http://host:port/path")
        parts = urlsplit(url)
        check_positive("timeout", timeout, MOST_SECONDS)
        check_not_negative("retries", retries)
        check_count("at_once", at_once)
        self._session = Session(f"{parts.scheme}://{parts.netloc}", timeout, retries)
        self._path, self._at_once = parts.path or "/", at_once

    def __call__(self, images: Float[Tensor, "n channel y x"]) -> Tensor:
        """(n, class) scores, or (n,) labels."""
        return torch.cat([self._one(part) for part in images.split(self._at_once)])

    def _one(self, images: Tensor) -> Tensor:
        try:
            answer = self._session.ask(self._path, {"images": images.cpu().tolist()})
            said = answer["scores"] if "scores" in answer else answer["labels"]
            return torch.tensor(said)
        except (StepError, KeyError, TypeError, ValueError) as error:
            raise ClassifierError(str(error)) from error


@final
class Scaled(nn.Module):
    """A classifier of pixels in the units of a file, whose brightest is `scale`, given [0, 1]."""

    def __init__(self, body: nn.Module, scale: float) -> None:
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch class"]:
        """Logits."""
        logits: Tensor = self.body(in_file_units(x, self.scale))
        return logits


def named_classifier(
    spec: str, scale: float, timeout: float = 60.0, retries: int = 2
) -> Classifier:
    """The classifier that `spec` names; `load_base_classifier` says how.

    Only a model.safetensors of `zopde classify` needs the `scale`: it takes the file's pixels.
    """
    if spec.startswith(("http://", "https://")):
        return HttpClassifier(spec, timeout, retries)
    if spec.endswith(".safetensors"):
        return frozen(Scaled(load_classifier(spec), scale))
    named = load_object(spec, what="classifier")
    try:
        made = named() if inspect.isclass(named) else named
    except Exception as error:  # a user's constructor may raise anything
        got = f"{type(error).__name__}: {first_line(error)}"
        expected = "a class that builds without arguments, a module or a function"
        raise InputError(f"classifier {spec!r}", got=got, expected=expected) from error
    if not callable(made):
        raise InputError(f"classifier {spec!r}", got=type(made).__name__, expected="a callable")
    return frozen(made) if isinstance(made, nn.Module) else made


def with_answers(classifier: Classifier, answers: str) -> Classifier:
    """A classifier of logits that gives "logits", "probabilities" or "labels", and no more."""
    if answers == "labels":
        return lambda images: classifier(images).argmax(dim=1)
    if answers == "probabilities" and isinstance(classifier, nn.Module):
        return nn.Sequential(classifier, nn.Softmax(dim=1)).eval()
    return classifier


def frozen(classifier: nn.Module) -> nn.Module:
    """In eval mode, its weights no parameters of any training."""
    return classifier.eval().requires_grad_(False)


def identity_of(spec: str, answers: str = "logits", path: Path | None = None) -> str:
    """Who a classifier is, for a store of its answers: its name, and the content of its files.

    `spec` is as `named_classifier` takes it, or "" for one that was trained in the run: `path`.
    """
    return files_identity(f"{spec} {answers}", [*([path] if path else []), *_files_of(spec)])


def content_of(spec: str, record: Path) -> str:
    """Who a classifier is, wherever its files lie: their content, and its name in there.

    `record` holds the same of the run that is resumed, if it is there.
    """
    files, file = _files_of(spec), Path(spec.rpartition(":")[0])
    name = "" if Path(spec).is_file() else spec.rpartition(":")[2] if file.is_file() else spec
    own = files[:1] if spec != name else []
    # Of runs of early versions: the text of the path was a part, or what it imports was not
    early = files_identity(f"{spec} logits", own), files_identity(name, own)
    known = record.read_text(encoding="utf-8").strip() if record.exists() else ""
    return known if known in early else files_identity(name, files)


def _files_of(spec: str) -> list[Path]:
    """The file that a classifier is in, if there is one, and what that imports beside it."""
    module = spec.rpartition(":")[0]
    named = Path(spec), Path(module), Path(getattr(sys.modules.get(module), "__file__", None) or "")
    own = next((path.resolve() for path in named if path.is_file()), None)
    if own is None or own.suffix != ".py":
        return [own] if own else []
    return list(dict.fromkeys([own, *imported(own)]))


def to_device(classifier: Classifier, device: str) -> Classifier:
    """A module moved to the run's device; anything else looks after itself."""
    return classifier.to(torch.device(device)) if isinstance(classifier, nn.Module) else classifier
