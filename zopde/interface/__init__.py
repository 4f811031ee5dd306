"""The interface cut: a black-box solver's vector-Jacobian product from queries."""

from zopde.interface.coloured import ColouredPullback, coloured_for
from zopde.interface.colouring import lattice_colours
from zopde.interface.dense import DensePullback, jacobians
from zopde.interface.random import RandomPullback
from zopde.interface.reach import Reach, measure_radius, measure_reach
from zopde.interface.vjp import InterfaceSolver, Pullback, Step

__all__ = [
    "ColouredPullback",
    "DensePullback",
    "InterfaceSolver",
    "Pullback",
    "RandomPullback",
    "Reach",
    "Step",
    "coloured_for",
    "jacobians",
    "lattice_colours",
    "measure_radius",
    "measure_reach",
]
