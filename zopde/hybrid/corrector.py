"""A solver and a corrector as one solver."""

from __future__ import annotations

from typing import final

from zopde.grid import Grid
from zopde.hybrid.injection import INJECTIONS, Injection
from zopde.protocols import Forcing, Network, Solver, State, seeded


@final
class CorrectedSolver:
    """Lets a network correct every step of a solver.

        after:    v = S(u, f),   u' = v + C(v, f)
        before:   u' = S(u + C(u, f), f)
        forcing:  u' = S(u, f + C(u, f))

    The solver stays a black box; the result is again a `Solver`.

    Args:
        solver: The solver S.
        network: The corrector C, from (state, forcing) to a correction of the state's shape, or
            of the forcing's.
        injection: `InjectAfter()`, `InjectBefore()` or `InjectForcing()`. None: where the
            network belongs by its own account (`network.inject`, which `load_corrector` brings
            back), or after the step if it gives none.
    """

    def __init__(
        self, solver: Solver, network: Network, injection: Injection | None = None
    ) -> None:
        self._solver = solver
        self._network = network
        self._injection = injection or INJECTIONS[getattr(network, "inject", "after")]

    @property
    def grid(self) -> Grid:
        """The solver's grid."""
        return self._solver.grid

    def with_seed(self, seed: int) -> CorrectedSolver:
        """The same with the solver's noise fixed; see `zopde.protocols.Seeded`."""
        return CorrectedSolver(seeded(self._solver, seed), self._network, self._injection)

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One corrected step; see `zopde.Solver.step`."""
        return self._injection.step(self._solver, self._network, state, forcing)
