"""The classifier that is smoothed: a file, a name or an address."""

from __future__ import annotations

from zopde.recipes.defence.classifier import named_classifier
from zopde.recipes.defence.config import ClassifierSettings
from zopde.recipes.defence.models import load_defended
from zopde.recipes.model_file import kinds_of
from zopde.smoothing import BaseClassifier


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
