"""The interface cut: a black-box solver's vector-Jacobian product from queries."""

from zopde.interface.bank import LOOKUPS, Bank, Key, farthest_points
from zopde.interface.bank_pullback import BankPullback, Watch
from zopde.interface.coloured import (
    ColouredPullback,
    Reach,
    coloured_for,
    lattice_colours,
    measure_radius,
    measure_reach,
)
from zopde.interface.dense import DensePullback, EntryOracle
from zopde.interface.forms import CompressedForm, DenseForm, Form, form_for
from zopde.interface.random import RandomPullback
from zopde.interface.store import JacobianStore, Probing
from zopde.interface.vjp import (
    InterfaceSolver,
    Pullback,
    PullbackAt,
    PullbackByVariable,
    Step,
    Variable,
    always,
    by_variable,
    queried,
)

__all__ = [
    "LOOKUPS",
    "Bank",
    "BankPullback",
    "ColouredPullback",
    "CompressedForm",
    "DenseForm",
    "DensePullback",
    "EntryOracle",
    "Form",
    "InterfaceSolver",
    "JacobianStore",
    "Key",
    "Probing",
    "Pullback",
    "PullbackAt",
    "PullbackByVariable",
    "RandomPullback",
    "Reach",
    "Step",
    "Variable",
    "Watch",
    "always",
    "by_variable",
    "coloured_for",
    "farthest_points",
    "form_for",
    "lattice_colours",
    "measure_radius",
    "measure_reach",
    "queried",
]
