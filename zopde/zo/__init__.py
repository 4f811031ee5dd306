"""Zeroth-order gradients: an estimator puts questions to an oracle. Knows no physics."""

from zopde.zo.cge import cge
from zopde.zo.estimate import Estimate
from zopde.zo.rge import rge

__all__ = ["Estimate", "cge", "rge"]
