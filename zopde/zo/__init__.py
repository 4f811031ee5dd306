"""Zeroth-order gradients: an oracle answers, an estimator asks. Knows no physics."""

from zopde.zo.cge import cge
from zopde.zo.estimate import Estimate
from zopde.zo.executor import ExecutorOracle
from zopde.zo.pools import WorkerPool
from zopde.zo.weights import WeightOracle

__all__ = ["Estimate", "ExecutorOracle", "WeightOracle", "WorkerPool", "cge"]
