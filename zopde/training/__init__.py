"""One training loop for every way of getting a gradient."""

from zopde.training.callbacks import Callback, Event, TensorBoardCallback, TrackioCallback
from zopde.training.descent import Backprop, Gradient, GradientSource, Optimise, Updating, cosine
from zopde.training.ensemble import EnsembleKalman, HasResiduals
from zopde.training.forward import ForwardGradient
from zopde.training.gradients import (
    ByUnits,
    CrossEntropy,
    EvolutionStrategy,
    Masked,
    NetworkOracle,
    OracleAt,
    RandomDirections,
    RunningStatistics,
    Skipping,
    ZerothOrder,
)
from zopde.training.history import Row, read_history
from zopde.training.loop import Fitted, fit, load_checkpoint, not_measured, save_checkpoint
from zopde.training.quality import Quality, Rated
from zopde.training.validation import Validation

__all__ = [
    "Backprop",
    "ByUnits",
    "Callback",
    "CrossEntropy",
    "EnsembleKalman",
    "Event",
    "EvolutionStrategy",
    "Fitted",
    "ForwardGradient",
    "Gradient",
    "GradientSource",
    "HasResiduals",
    "Masked",
    "NetworkOracle",
    "Optimise",
    "OracleAt",
    "Quality",
    "RandomDirections",
    "Rated",
    "Row",
    "RunningStatistics",
    "Skipping",
    "TensorBoardCallback",
    "TrackioCallback",
    "Updating",
    "Validation",
    "ZerothOrder",
    "cosine",
    "fit",
    "load_checkpoint",
    "not_measured",
    "read_history",
    "save_checkpoint",
]
