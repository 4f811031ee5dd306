"""How good a gradient is, and which step it needs."""

from zopde.check.gradient import LayerCheck, SelfCheck, selfcheck
from zopde.check.noise import Noise, measure_noise
from zopde.check.sweep import Sweep, SweepPoint, sweep_mu

__all__ = [
    "LayerCheck",
    "Noise",
    "SelfCheck",
    "Sweep",
    "SweepPoint",
    "measure_noise",
    "selfcheck",
    "sweep_mu",
]
