"""The transposed product of a tangent, by back-propagation."""

from __future__ import annotations

from typing import final

import torch

from zopde.contracts import State
from zopde.interface import Watch
from zopde.interface.vjp import Probing, Step, Varied
from zopde.tangent.net import Tangent


@final
class TangentPullback:
    """Takes J^T v from a fitted `Tangent`: N(u, f)^T v, exactly, by back-propagation.

    Its error is that of the tangent. Queries: none but the watch's.

    Args:
        tangent: A fitted one; see `learn`.
        probing: How the watch measures a response; its scale is of the perturbed input.
        watch: Compares the tangent with the solver; None looks at every tenth product, and warns
            where it fits badly.
    """

    def __init__(
        self, tangent: Tangent, probing: Probing | None = None, watch: Watch | None = None
    ) -> None:
        self._tangent, self._probing = tangent, probing or Probing()
        self._watch = watch or Watch(torch.Generator().manual_seed(0))

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `zopde.interface.Pullback`."""
        instead = self._watch.instead(step, self._push, self._probing)
        if instead is not None:
            return instead(step, cotangent)
        zero = torch.zeros_like(step.point).requires_grad_()
        with torch.no_grad():
            gates = self._tangent.gates(step.state, step.forcing)
        with torch.enable_grad():
            moved = self._tangent.predict(gates, zero[:, None], step.variable)[:, 0]
            (product,) = torch.autograd.grad(moved, zero, cotangent)
        return product

    @torch.no_grad()
    def _push(self, step: Step, direction: Varied) -> State:
        ask = step.state, step.forcing, direction[:, None], step.variable
        pushed: State = self._tangent(*ask)[:, 0]
        return pushed
