"""Solver and network in one loop. Knows no zeroth order."""

from zopde.hybrid.adapt import OneAtATime
from zopde.hybrid.apart import Apart
from zopde.hybrid.blackbox import BlackBox
from zopde.hybrid.corrector import CorrectedSolver
from zopde.hybrid.count import CountedSolver
from zopde.hybrid.failures import Dropping, Retrying, TooManyFailuresError, failures_of
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
from zopde.hybrid.store import Store, Stored

__all__ = [
    "INJECTIONS",
    "Apart",
    "BlackBox",
    "CorrectedSolver",
    "CountedSolver",
    "Dropping",
    "InjectAfter",
    "InjectBefore",
    "InjectForcing",
    "Injection",
    "OneAtATime",
    "Retrying",
    "RolloutError",
    "Store",
    "Stored",
    "TooManyFailuresError",
    "UnrolledObjective",
    "downsample",
    "failures_of",
    "rollout",
    "rollout_error",
]
