"""The interface cut: a black-box solver's vector-Jacobian product from queries."""

from zopde.interface.bank import LOOKUPS, Bank, BankPullback, Key, farthest_points
from zopde.interface.chosen import PullbackAt, PullbackByVariable, always, by_variable
from zopde.interface.coloured import CheckedAt, ColouredPullback, coloured_for
from zopde.interface.corrected import CorrectedPullback
from zopde.interface.directions import DensePullback, EntryOracle, RandomPullback
from zopde.interface.identity import IdentityPullback
from zopde.interface.reach import measure_radius, measure_reach
from zopde.interface.regressed import RegressedPullback
from zopde.interface.store import JacobianStore
from zopde.interface.vjp import (
    InterfaceSolver,
    Probing,
    Pullback,
    Step,
    Variable,
    queried,
)
from zopde.interface.watch import Agreement, Watch, compare

__all__ = [
    "LOOKUPS",
    "Agreement",
    "Bank",
    "BankPullback",
    "CheckedAt",
    "ColouredPullback",
    "CorrectedPullback",
    "DensePullback",
    "EntryOracle",
    "IdentityPullback",
    "InterfaceSolver",
    "JacobianStore",
    "Key",
    "Probing",
    "Pullback",
    "PullbackAt",
    "PullbackByVariable",
    "RandomPullback",
    "RegressedPullback",
    "Step",
    "Variable",
    "Watch",
    "always",
    "by_variable",
    "coloured_for",
    "compare",
    "farthest_points",
    "measure_radius",
    "measure_reach",
    "queried",
]
