"""The loss of a corrector in the loop, the same for every way of training it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor

from zopde.hybrid.corrector import correct
from zopde.protocols import Network, Solver, Window, ask_shared, repeat_states, seeded


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
        seeds: One for every step of the unroll, with which the solver's noise is fixed: the same
            for every probe; none leaves the solver as it is. See `zopde.protocols.Seeded`.
    """

    def __init__(
        self,
        solver: Solver,
        window: Window,
        scale: Float[Tensor, " channel"],
        seeds: Sequence[int] = (),
    ) -> None:
        self._solver, self._seeds = solver, tuple(seeds)
        self._window = window
        self._scale = scale.view(-1, *[1] * (window.stepped.dim() - 2))

    def __call__(self, network: Network, num_probes: int = 1) -> Float[Tensor, " num_probes"]:
        """Evaluate `num_probes` losses; see `zopde.protocols.Objective`."""
        window = self._window
        answer = ask_shared(network, num_probes, window.stepped, self._forcing(0))
        state = (answer.view(num_probes, *window.stepped.shape) + window.stepped).flatten(0, 1)
        total = self._error(state, window.targets[:, 0], num_probes)
        for k in range(1, window.unroll):
            forcing = repeat_states(self._forcing(k), num_probes)
            state = correct(network, self._solver_at(k).step(state, forcing), forcing)
            total = total + self._error(state, window.targets[:, k], num_probes)
        return total / window.unroll

    def _solver_at(self, k: int) -> Solver:
        return seeded(self._solver, self._seeds[k]) if self._seeds else self._solver

    def _forcing(self, k: int) -> Tensor | None:
        return None if self._window.forcing is None else self._window.forcing[:, k]

    def _error(self, state: Tensor, target: Tensor, num_probes: int) -> Tensor:
        probes = state.view(num_probes, *target.shape)
        return ((probes - target) / self._scale).square().flatten(1).mean(dim=1)
