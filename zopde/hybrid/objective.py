"""The loss of a corrector in the loop, the same for every way of training it."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.hybrid.corrector import correct
from zopde.protocols import Network, Solver, Window


@final
class UnrolledObjective:
    """Mean squared error of the normalised state over an unrolled, corrected rollout.

        L = (1 / n) sum_{k=1..n} mean[ ((u[k] - r[k]) / s)^2 ],
        u[k] = v[k] + C(v[k], f[k-1]),   v[k] = S(u[k-1], f[k-1])

    (Um et al. 2020, eq. 5, with s the training data's standard deviation per channel.)
    Under autograd the kind of solver decides what the gradient means, nothing else does:
    with n = 1 it is NON; with a `BlackBox`, whose answer carries no gradient, NOG; with the
    differentiable twin, SOL.

    Args:
        solver: Advances the states between the corrections: (n - 1) calls, each for
            num_probes * batch states.
        window: The stretch of reference data to follow.
        scale: (channel,), standard deviation by which each channel's error is divided.
    """

    def __init__(self, solver: Solver, window: Window, scale: Float[Tensor, " channel"]) -> None:
        self._solver = solver
        self._window = window
        self._scale = scale.view(-1, *[1] * (window.stepped.dim() - 2))

    def __call__(self, network: Network, num_probes: int = 1) -> Float[Tensor, " num_probes"]:
        """Evaluate `num_probes` losses; see `zopde.protocols.Objective`."""
        window = self._window
        stepped = _per_probe(window.stepped, num_probes)
        state = stepped
        total = torch.zeros(num_probes, dtype=stepped.dtype, device=stepped.device)
        for k in range(window.unroll):
            forcing = None
            if window.forcing is not None:
                forcing = _per_probe(window.forcing[:, k], num_probes)
            if k:
                stepped = self._solver.step(state, forcing)
            state = correct(network, stepped, forcing)
            total = total + self._error(state, window.targets[:, k], num_probes)
        return total / window.unroll

    def _error(self, state: Tensor, target: Tensor, num_probes: int) -> Tensor:
        probes = state.view(num_probes, *target.shape)
        return ((probes - target) / self._scale).square().flatten(1).mean(dim=1)


def _per_probe(batch: Tensor, num_probes: int) -> Tensor:
    """(batch, ...) -> (num_probes * batch, ...), probe-major."""
    return batch if num_probes == 1 else batch.repeat(num_probes, *[1] * (batch.dim() - 1))
