"""Training a corrector of a PDE solver, and judging it."""

from zopde.studies.correct.evaluate import load_corrector, save_corrector
from zopde.studies.correct.labels import WAYS
from zopde.studies.correct.run import run_correction
from zopde.studies.correct.settings import PRESETS, CorrectionConfig, load_config

__all__ = [
    "PRESETS",
    "WAYS",
    "CorrectionConfig",
    "load_config",
    "load_corrector",
    "run_correction",
    "save_corrector",
]
