"""The transposed product of a tangent, by back-propagation."""

from __future__ import annotations

from typing import final

import torch

from zopde.contracts import State
from zopde.interface.vjp import Step, Varied
from zopde.tangent.net import Tangent


@final
class TangentPullback:
    """Takes J^T v from a fitted `Tangent`: N(u, f)^T v, exactly, by back-propagation.

    No solver step. Its error is that of the tangent.
    """

    def __init__(self, tangent: Tangent) -> None:
        self._tangent = tangent

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `zopde.interface.Pullback`."""
        zero = torch.zeros_like(step.point).requires_grad_()
        with torch.no_grad():
            gates = self._tangent.gates(step.state, step.forcing)
        with torch.enable_grad():
            moved = self._tangent.predict(gates, zero[:, None], step.variable)[:, 0]
            (product,) = torch.autograd.grad(moved, zero, cotangent)
        return product
