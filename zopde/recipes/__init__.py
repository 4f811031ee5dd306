"""Whole jobs: the only room that wires the others together."""

from zopde.recipes.config import PRESETS, CorrectionConfig, load_config
from zopde.recipes.correction import run_correction
from zopde.recipes.gradient_check import GradientCheck, check_gradient
from zopde.recipes.labels import WAYS
from zopde.recipes.models import load_corrector, save_corrector
from zopde.recipes.solver_check import SolverCheck, check_solver

__all__ = [
    "PRESETS",
    "WAYS",
    "CorrectionConfig",
    "GradientCheck",
    "SolverCheck",
    "check_gradient",
    "check_solver",
    "load_config",
    "load_corrector",
    "run_correction",
    "save_corrector",
]
