"""The tangent: a learned derivative of a solver's step, whose price does not grow with the state."""

from zopde.tangent.fit import errors, held_out_error
from zopde.tangent.learn import Learned, Learning, learn
from zopde.tangent.net import Tangent
from zopde.tangent.pairs import Pairs, PairStore, joined, smoothed_noise
from zopde.tangent.pullback import TangentPullback

__all__ = [
    "Learned",
    "Learning",
    "Pairs",
    "PairStore",
    "Tangent",
    "TangentPullback",
    "errors",
    "held_out_error",
    "joined",
    "learn",
    "smoothed_noise",
]
