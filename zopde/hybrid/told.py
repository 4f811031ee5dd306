"""What a network is told and a solver is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from zopde.contracts import Domain, Forcing, Solver, State, seedable, seeded
from zopde.domain import with_forcing
from zopde.errors import InputError


@final
class Told:
    """Takes further forcing channels, which a network may see, and keeps them from the solver.

        S'(u, [f, g]) = S(u, f)

    g is what a network is told: parameters of a run, the time of day, any field that is known. All
    that hands a forcing on (windows, rollouts, injections) then hands it to the network, too.

    Args:
        solver: The solver S.
        grid: Its grid, with the channels of g behind those of f, as `zopde.domain.with_forcing`
            makes it.

    Raises:
        InputError: At a step without g, or with another number of channels.
    """

    def __init__(self, solver: Solver, grid: Domain) -> None:
        self.grid, self._solver, self.seedable = grid, solver, seedable(solver)
        self._own = len(solver.grid.forcing_channels)

    def with_seed(self, seed: int) -> Told:
        """The same with the solver's noise fixed; see `zopde.contracts.Seeded`."""
        return Told(seeded(self._solver, seed), self.grid)

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step by the first channels of `forcing`; see `zopde.Solver.step`."""
        names = self.grid.forcing_channels
        if forcing is None or forcing.shape[1] != len(names):
            got = "no forcing" if forcing is None else f"shape {tuple(forcing.shape)}"
            expected = f"(batch, {len(names)}, *space), the channels {', '.join(names)}"
            raise InputError("forcing", got=got, expected=expected)
        return self._solver.step(state, forcing[:, : self._own] if self._own else None)


def told_of(solver: Solver, names: Sequence[str]) -> Solver:
    """A solver that takes what a network is told by these names; itself where it does already."""
    own = solver.grid.forcing_channels
    if not names or own[-len(names) :] == tuple(names):
        return solver
    return Told(solver, with_forcing(solver.grid, names))
