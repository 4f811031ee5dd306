"""Certified defence of a black-box classifier: a denoiser trained through it, by queries."""

from zopde.recipes.defence.config import PRESETS, DefenceConfig, load_defence
from zopde.recipes.defence.methods import METHODS
from zopde.recipes.defence.models import Defended, load_defended
from zopde.recipes.defence.run import run_defence

__all__ = [
    "METHODS",
    "PRESETS",
    "DefenceConfig",
    "Defended",
    "load_defence",
    "load_defended",
    "run_defence",
]
