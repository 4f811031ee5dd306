"""Oracles: they evaluate the loss of a network at moved weights, many at once."""

from zopde.oracle.by_objective import WeightOracles
from zopde.oracle.chunks import peak_bytes
from zopde.oracle.coordinates import relative_mu
from zopde.oracle.executor import ExecutorOracle
from zopde.oracle.units import UnitOracle
from zopde.oracle.weights import WeightOracle
from zopde.oracle.workers import WorkerPool

__all__ = [
    "ExecutorOracle",
    "UnitOracle",
    "WeightOracle",
    "WeightOracles",
    "WorkerPool",
    "peak_bytes",
    "relative_mu",
]
