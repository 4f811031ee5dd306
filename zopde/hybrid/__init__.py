"""Solver and network in one loop. Knows no zeroth order."""

from zopde.hybrid.adapt import OneAtATime
from zopde.hybrid.blackbox import BlackBox
from zopde.hybrid.corrector import CorrectedSolver
from zopde.hybrid.count import CountedSolver
from zopde.hybrid.injection import (
    INJECTIONS,
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
    "BlackBox",
    "CorrectedSolver",
    "CountedSolver",
    "InjectAfter",
    "InjectBefore",
    "InjectForcing",
    "Injection",
    "OneAtATime",
    "RolloutError",
    "UnrolledObjective",
    "downsample",
    "rollout",
    "rollout_error",
]
