"""Zeroth-order gradients: an oracle answers, an estimator asks. Knows no physics."""

from zopde.zo.cge import cge
from zopde.zo.estimate import Estimate
from zopde.zo.executor import ExecutorOracle
from zopde.zo.mu import relative_mu
from zopde.zo.pools import WorkerPool
from zopde.zo.rge import rge
from zopde.zo.selfcheck import SelfCheck, selfcheck
from zopde.zo.weights import WeightOracle, WeightOracles

__all__ = [
    "Estimate",
    "ExecutorOracle",
    "SelfCheck",
    "WeightOracle",
    "WeightOracles",
    "WorkerPool",
    "cge",
    "relative_mu",
    "rge",
    "selfcheck",
]
