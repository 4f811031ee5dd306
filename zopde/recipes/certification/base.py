"""The classifier that is smoothed: a file, a name or an address."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from zopde.errors import InputError, first_line
from zopde.plugins import load_object
from zopde.recipes.classification import load_classifier
from zopde.smoothing import BaseClassifier


@final
class Scaled(nn.Module):
    """A classifier of pixels in the units of a file, given those over `scale`.

    Args:
        body: The classifier.
        scale: What the pixels were divided by.
    """

    def __init__(self, body: nn.Module, scale: float) -> None:
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        logits: Tensor = self.body(x * self.scale)
        return logits


def load_base_classifier(spec: str, scale: float) -> BaseClassifier:
    """The classifier that `spec` names; a module comes in eval mode.

    Args:
        spec: A model.safetensors of `zopde classify`, which wants pixels in the units of their
            file; or "package.module:name", "file.py:name": a module, a class that builds without
            arguments, or a function, which get pixels over `scale`.
        scale: What the pixels of the file are divided by.

    Raises:
        InputError: If there is none, or it cannot be built.
    """
    if spec.startswith(("http://", "https://")):
        raise InputError(
            "model", got=repr(spec), expected="a file or an import string: no address yet"
        )
    if spec.endswith(".safetensors"):
        return Scaled(load_classifier(spec), scale).eval()
    found = load_object(spec, what="model")
    try:
        made = found() if inspect.isclass(found) else found
    except Exception as error:  # a user's constructor may raise anything
        raise InputError(
            f"model {spec!r}",
            got=f"{type(error).__name__}: {first_line(error)}",
            expected="a class that builds without arguments, a module or a function",
        ) from error
    if not callable(made):
        raise InputError(f"model {spec!r}", got=f"a {type(made).__name__}", expected="a callable")
    checked: BaseClassifier = made.eval() if isinstance(made, nn.Module) else made
    return checked


def digest_of(spec: str) -> str:
    """A checksum of what a spec names, as far as it is a file."""
    whole = hashlib.sha256(spec.encode())
    for path in (Path(spec), Path(spec.rpartition(":")[0])):
        if path.is_file():
            whole.update(path.read_bytes())
    return whole.hexdigest()
