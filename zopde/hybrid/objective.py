"""The loss of a corrector in the loop, the same for every way of training it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor

from zopde.contracts import (
    Forcing,
    Network,
    Solver,
    State,
    Window,
    ask_shared,
    repeat_states,
    seeded,
)
from zopde.errors import InputError
from zopde.grid import Grid
from zopde.hybrid.injection import INJECTIONS, Injection


@final
class UnrolledObjective:
    """Mean squared error of the normalised state over an unrolled, corrected rollout.

        L = (1 / n) sum_{k=1..n} mean[ ((u[k] - r[k]) / s)^2 ],
        u[k] = the corrected step from u[k-1], see `CorrectedSolver`

    (Um et al. 2020, eq. 5, with s the training data's standard deviation per channel.)
    Under autograd the kind of solver decides what the gradient means, nothing else does:
    with n = 1 it is NON; with a `BlackBox`, whose answer carries no gradient, NOG; with an
    `InterfaceSolver`, ZO-interface; with the differentiable twin, SOL. Where the correction
    reaches the loss through the solver alone (before the step, in its forcing), NON and NOG have
    no gradient.

    Args:
        solver: Advances num_probes * batch states a call: n calls, one less after the step,
            where the first answer is the window's.
        window: The stretch of reference data to follow.
        scale: (channel,), standard deviation by which each channel's error is divided.
        injection: Where the correction enters; None is after the step.
        seeds: One for every step of the unroll, with which the solver's noise is fixed: the same
            for every probe; none leaves the solver as it is. See `zopde.contracts.Seeded`.

    Raises:
        InputError: If the window lacks what the first step starts from.
    """

    def __init__(
        self,
        solver: Solver,
        window: Window,
        scale: Float[Tensor, " channel"],
        injection: Injection | None = None,
        seeds: Sequence[int] = (),
    ) -> None:
        self._solver, self._seeds = solver, tuple(seeds)
        self._window = window
        self._scale = scale.view(-1, *[1] * (window.targets.dim() - 3))
        self._injection = injection or INJECTIONS["after"]
        if window.initial is None and self._injection.through_solver:
            raise InputError("window", got="no initial state", expected="one, to be corrected")

    def __call__(self, network: Network, num_probes: int = 1) -> Float[Tensor, " num_probes"]:
        """Evaluate `num_probes` losses; see `zopde.contracts.Objective`."""
        window = self._window
        state = self._first(network, num_probes)
        total = self._error(state, window.targets[:, 0], num_probes)
        for k in range(1, window.unroll):
            forcing = repeat_states(self._forcing(k), num_probes)
            state = self._injection.step(self._solver_at(k), network, state, forcing)
            total = total + self._error(state, window.targets[:, k], num_probes)
        return total / window.unroll

    def _first(self, network: Network, num_probes: int) -> State:
        """The first step starts from states that all probes have in common."""
        first = _FirstStep(self._solver_at(0), self._window, self._forcing(0))

        def shared(*given: Tensor | None) -> Tensor:
            return ask_shared(network, num_probes, *given)

        return self._injection.step(first, shared, first.state, first.forcing)

    def _solver_at(self, k: int) -> Solver:
        return seeded(self._solver, self._seeds[k]) if self._seeds else self._solver

    def _forcing(self, k: int) -> Tensor | None:
        return None if self._window.forcing is None else self._window.forcing[:, k]

    def _error(self, state: Tensor, target: Tensor, num_probes: int) -> Tensor:
        probes = state.view(num_probes, *target.shape)
        return ((probes - target) / self._scale).square().flatten(1).mean(dim=1)


@final
class _FirstStep:
    """The solver, which is not asked again for the answer that the window holds."""

    def __init__(self, solver: Solver, window: Window, forcing: Forcing | None) -> None:
        self._solver, self._stepped = solver, window.stepped
        start = window.stepped if window.initial is None else window.initial
        assert start is not None, "see Window"
        self.state, self.forcing = start, forcing

    @property
    def grid(self) -> Grid:
        """The solver's grid."""
        return self._solver.grid

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        if self._stepped is not None and state is self.state and forcing is self.forcing:
            return self._stepped
        return self._solver.step(state, forcing)
