"""The interface cut: a black-box solver's vector-Jacobian product from queries."""

from zopde.interface.dense import DensePullback, jacobians
from zopde.interface.vjp import InterfaceSolver, Pullback, Step

__all__ = ["DensePullback", "InterfaceSolver", "Pullback", "Step", "jacobians"]
