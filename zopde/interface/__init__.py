"""The interface cut: a black-box solver's vector-Jacobian product from queries."""

from zopde.interface.amortised import AmortisedPullback, Watch
from zopde.interface.bank import Bank, check_size
from zopde.interface.coloured import ColouredPullback, coloured_for
from zopde.interface.colouring import lattice_colours
from zopde.interface.dense import DensePullback, jacobians
from zopde.interface.entries import EntryOracle
from zopde.interface.random import RandomPullback
from zopde.interface.reach import Reach, measure_radius, measure_reach
from zopde.interface.snapshots import farthest_points
from zopde.interface.vjp import InterfaceSolver, Pullback, Step

__all__ = [
    "AmortisedPullback",
    "Bank",
    "ColouredPullback",
    "DensePullback",
    "EntryOracle",
    "InterfaceSolver",
    "Pullback",
    "RandomPullback",
    "Reach",
    "Step",
    "Watch",
    "check_size",
    "coloured_for",
    "farthest_points",
    "jacobians",
    "lattice_colours",
    "measure_radius",
    "measure_reach",
]
