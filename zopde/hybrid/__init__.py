"""Solver and network in one loop. Knows no zeroth order."""

from zopde.hybrid.corrected import (
    INJECTIONS,
    CorrectedSolver,
    InjectAfter,
    InjectBefore,
    InjectForcing,
    Injection,
    InjectParameter,
    UnrolledObjective,
)
from zopde.hybrid.losses import Last, Loss, Moments, Relative, Sensors, Spectrum
from zopde.hybrid.rollouts import RolloutError, downsample, rollout, rollout_error

__all__ = [
    "INJECTIONS",
    "CorrectedSolver",
    "InjectAfter",
    "InjectBefore",
    "InjectForcing",
    "InjectParameter",
    "Injection",
    "Last",
    "Loss",
    "Moments",
    "Relative",
    "RolloutError",
    "Sensors",
    "Spectrum",
    "UnrolledObjective",
    "downsample",
    "rollout",
    "rollout_error",
]
