"""The tangent: a learned derivative of a solver's step, at a price that the grid does not raise."""

from zopde.tangent.emulator import Emulator, EmulatorPullback, Values, fit_values, value_error
from zopde.tangent.fit import errors, held_out_error
from zopde.tangent.net import Tangent
from zopde.tangent.pairs import Pairs, PairStore, joined, smoothed_noise
from zopde.tangent.pullback import TangentPullback
from zopde.tangent.rounds import Learned, Learning, learn
from zopde.tangent.solver import DerivativeReport, DifferentiableSolver, differentiable

__all__ = [
    "DerivativeReport",
    "DifferentiableSolver",
    "Emulator",
    "EmulatorPullback",
    "Learned",
    "Learning",
    "PairStore",
    "Pairs",
    "Tangent",
    "TangentPullback",
    "Values",
    "differentiable",
    "errors",
    "fit_values",
    "held_out_error",
    "joined",
    "learn",
    "smoothed_noise",
    "value_error",
]
