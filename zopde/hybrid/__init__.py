"""Solver and network in one loop. Knows no zeroth order."""

from zopde.hybrid.climate import ClimateError, climate_error
from zopde.hybrid.corrected import CorrectedSolver
from zopde.hybrid.losses import LastLoss, Loss, MomentsLoss, RelativeLoss, SensorsLoss, SpectrumLoss
from zopde.hybrid.repeated import Repeated
from zopde.hybrid.rollouts import RolloutError, downsample, rollout, rollout_error
from zopde.hybrid.told import Told
from zopde.hybrid.unrolled import (
    INJECTIONS,
    InjectAfter,
    InjectBefore,
    InjectForcing,
    Injection,
    InjectParameter,
    UnrolledObjective,
)

__all__ = [
    "INJECTIONS",
    "ClimateError",
    "CorrectedSolver",
    "InjectAfter",
    "InjectBefore",
    "InjectForcing",
    "InjectParameter",
    "Injection",
    "LastLoss",
    "Loss",
    "MomentsLoss",
    "RelativeLoss",
    "Repeated",
    "RolloutError",
    "SensorsLoss",
    "SpectrumLoss",
    "Told",
    "UnrolledObjective",
    "climate_error",
    "downsample",
    "rollout",
    "rollout_error",
]
