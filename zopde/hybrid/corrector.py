"""A solver and a corrector as one solver."""

from __future__ import annotations

from typing import final

from zopde.grid import Grid
from zopde.protocols import Forcing, Network, Solver, State, seeded


@final
class CorrectedSolver:
    """Adds a network's correction after every step of a solver.

        v = S(u, f),   u' = v + C(v, f)

    The solver stays a black box; the result is again a `Solver`.

    Args:
        solver: The solver S.
        network: The corrector C, from (state, forcing) to a correction of the state's shape.
    """

    def __init__(self, solver: Solver, network: Network) -> None:
        self._solver = solver
        self._network = network

    @property
    def grid(self) -> Grid:
        """The solver's grid."""
        return self._solver.grid

    def with_seed(self, seed: int) -> CorrectedSolver:
        """The same with the solver's noise fixed; see `zopde.protocols.Seeded`."""
        return CorrectedSolver(seeded(self._solver, seed), self._network)

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One corrected step; see `zopde.Solver.step`."""
        return correct(self._network, self._solver.step(state, forcing), forcing)


def correct(network: Network, stepped: State, forcing: Forcing | None) -> State:
    """v + C(v, f): the correction of a state that the solver has already advanced."""
    return stepped + network(stepped, forcing)
