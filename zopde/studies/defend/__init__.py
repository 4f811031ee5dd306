"""Certified defence of a black-box classifier: a denoiser trained through it, by queries."""

from zopde.studies.defend.networks import Defended, load_defended
from zopde.studies.defend.run import run_defence
from zopde.studies.defend.settings import METHODS, PRESETS, DefenceConfig, load_defence

__all__ = [
    "METHODS",
    "PRESETS",
    "DefenceConfig",
    "Defended",
    "load_defence",
    "load_defended",
    "run_defence",
]
