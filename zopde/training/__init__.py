"""One training loop for every way of getting a gradient."""

from zopde.training.checkpoint import load_checkpoint, save_checkpoint
from zopde.training.fit import Fitted, fit
from zopde.training.gradients import (
    Backprop,
    CrossEntropy,
    Gradient,
    GradientSource,
    Masked,
    OracleAt,
    RandomDirections,
    RunningStatistics,
    Skipping,
    ZerothOrder,
)
from zopde.training.history import History, Row, read_history
from zopde.training.optimise import Optimise, cosine

__all__ = [
    "Backprop",
    "CrossEntropy",
    "Fitted",
    "Gradient",
    "GradientSource",
    "History",
    "Masked",
    "Optimise",
    "OracleAt",
    "RandomDirections",
    "Row",
    "RunningStatistics",
    "Skipping",
    "ZerothOrder",
    "cosine",
    "fit",
    "load_checkpoint",
    "read_history",
    "save_checkpoint",
]
