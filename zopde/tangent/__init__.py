"""The tangent: a learned derivative of a solver's step, at a price that the grid does not raise."""

from zopde.tangent.fit import errors, held_out_error
from zopde.tangent.net import Tangent
from zopde.tangent.pairs import Pairs, PairStore, joined, smoothed_noise
from zopde.tangent.pullback import TangentPullback
from zopde.tangent.rounds import Learned, Learning, learn

__all__ = [
    "Learned",
    "Learning",
    "PairStore",
    "Pairs",
    "Tangent",
    "TangentPullback",
    "errors",
    "held_out_error",
    "joined",
    "learn",
    "smoothed_noise",
]
