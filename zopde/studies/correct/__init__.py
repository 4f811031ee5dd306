"""Training a corrector of a PDE solver in every way, and judging it."""

from zopde.studies.correct.evaluate import load_corrector, save_corrector
from zopde.studies.correct.export import export_corrector
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.pictures import Picture
from zopde.studies.correct.settings import PRESETS, CorrectionConfig, load_config
from zopde.studies.correct.study import run_correction

__all__ = [
    "LABELS",
    "PRESETS",
    "CorrectionConfig",
    "Picture",
    "export_corrector",
    "load_config",
    "load_corrector",
    "run_correction",
    "save_corrector",
]
