"""Every way of training a corrector, with the same number of solver steps."""

from zopde.studies.correct.compare.settings import CompareConfig, load_comparison
from zopde.studies.correct.compare.study import run_comparison

__all__ = ["CompareConfig", "load_comparison", "run_comparison"]
