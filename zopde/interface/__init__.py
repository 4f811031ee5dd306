"""The interface cut: a black-box solver's vector-Jacobian product from queries."""

from zopde.interface.amortised import AmortisedPullback, Watch
from zopde.interface.bank import Bank, Key, form_for
from zopde.interface.coloured import ColouredPullback, coloured_for
from zopde.interface.colouring import lattice_colours
from zopde.interface.compressed import CompressedForm
from zopde.interface.dense import DensePullback, jacobians
from zopde.interface.differences import EntryOracle
from zopde.interface.forms import DenseForm
from zopde.interface.lookup import Lookup, farthest_points
from zopde.interface.random import RandomPullback
from zopde.interface.reach import Reach, measure_radius, measure_reach
from zopde.interface.store import JacobianStore, Probing
from zopde.interface.vjp import InterfaceSolver, Pullback, PullbackByVariable, Step, queried

__all__ = [
    "AmortisedPullback",
    "Bank",
    "ColouredPullback",
    "CompressedForm",
    "DenseForm",
    "DensePullback",
    "EntryOracle",
    "InterfaceSolver",
    "JacobianStore",
    "Key",
    "Lookup",
    "Probing",
    "Pullback",
    "PullbackByVariable",
    "RandomPullback",
    "Reach",
    "Step",
    "Watch",
    "coloured_for",
    "farthest_points",
    "form_for",
    "jacobians",
    "lattice_colours",
    "measure_radius",
    "measure_reach",
    "queried",
]
