"""Image classification from scratch, with and without back-propagation."""

from zopde.studies.classify.network import load_classifier
from zopde.studies.classify.run import run_classification
from zopde.studies.classify.settings import (
    METHODS,
    PRESETS,
    ClassificationConfig,
    load_classification,
)

__all__ = [
    "METHODS",
    "PRESETS",
    "ClassificationConfig",
    "load_classification",
    "load_classifier",
    "run_classification",
]
