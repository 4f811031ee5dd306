"""Image classification from scratch, with and without back-propagation."""

from zopde.studies.classifiers import load_classifier
from zopde.studies.classify.labels import LABELS
from zopde.studies.classify.settings import PRESETS, ClassificationConfig, load_classification
from zopde.studies.classify.study import run_classification

__all__ = [
    "LABELS",
    "PRESETS",
    "ClassificationConfig",
    "load_classification",
    "load_classifier",
    "run_classification",
]
