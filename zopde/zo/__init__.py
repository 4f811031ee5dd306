"""Zeroth-order gradients: an estimator puts questions to an oracle. Knows no physics.

Without a gradient: ensemble Kalman inversion, from what an ensemble of weights predicts.
"""

from zopde.zo.by_units import unitwise
from zopde.zo.cge import cge
from zopde.zo.estimate import Estimate
from zopde.zo.evolution import es, low_rank
from zopde.zo.kalman import eki_update, etki_update, misfit_variance, refilled
from zopde.zo.rge import rge

__all__ = [
    "Estimate",
    "cge",
    "eki_update",
    "es",
    "etki_update",
    "low_rank",
    "misfit_variance",
    "refilled",
    "rge",
    "unitwise",
]
