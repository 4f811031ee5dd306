"""Certified defence of a black-box classifier: a denoiser trained through it, by queries."""

from zopde.studies.defend.labels import LABELS
from zopde.studies.defend.settings import PRESETS, DefenceConfig, load_defence
from zopde.studies.defend.study import run_defence
from zopde.studies.defended import Defended, load_defended

__all__ = [
    "LABELS",
    "PRESETS",
    "DefenceConfig",
    "Defended",
    "load_defence",
    "load_defended",
    "run_defence",
]
