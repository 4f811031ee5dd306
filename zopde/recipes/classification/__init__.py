"""Image classification from scratch, with and without back-propagation."""

from zopde.recipes.classification.config import (
    PRESETS,
    ClassificationConfig,
    load_classification,
)
from zopde.recipes.classification.methods import METHODS
from zopde.recipes.classification.models import load_classifier
from zopde.recipes.classification.run import run_classification

__all__ = [
    "METHODS",
    "PRESETS",
    "ClassificationConfig",
    "load_classification",
    "load_classifier",
    "run_classification",
]
