"""Solver and network in one loop. Knows no zeroth order."""

from zopde.hybrid.injection import (
    INJECTIONS,
    CorrectedSolver,
    InjectAfter,
    InjectBefore,
    InjectForcing,
    Injection,
)
from zopde.hybrid.metrics import RolloutError, rollout_error
from zopde.hybrid.objective import UnrolledObjective
from zopde.hybrid.resample import downsample
from zopde.hybrid.rollout import rollout

__all__ = [
    "INJECTIONS",
    "CorrectedSolver",
    "InjectAfter",
    "InjectBefore",
    "InjectForcing",
    "Injection",
    "RolloutError",
    "UnrolledObjective",
    "downsample",
    "rollout",
    "rollout_error",
]
