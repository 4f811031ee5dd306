"""Several steps of a solver as one."""

from __future__ import annotations

from typing import final

from zopde.contracts import Domain, Forcing, Solver, State, seedable, seeded
from zopde.domain import strided
from zopde.seeding import noise_seeds
from zopde.validate import check_count


@final
class Repeated:
    """Takes several steps of a solver as one: S^k(u) = S( .. S(S(u, f[1]), f[2]) .. , f[k]).

    Each of them is the solver's own, so that what stands inside, such as an `InterfaceSolver`,
    meets single steps.

    Args:
        solver: The solver S.
        every: k, steps in one, >= 1.

    Raises:
        InputError: If `every` is no whole number >= 1.
    """

    def __init__(self, solver: Solver, every: int) -> None:
        check_count("every", every)
        self._solver, self._in_turn = solver, (solver,) * every
        self.seedable = seedable(solver)

    @property
    def grid(self) -> Domain:
        """The solver's grid, with the dt of all the steps."""
        return strided(self._solver.grid, len(self._in_turn))

    def with_seed(self, seed: int) -> Repeated:
        """The same with the solver's noise fixed, another one for each of the steps."""
        every = len(self._in_turn)
        twin = Repeated(self._solver, every)
        twin._in_turn = tuple(seeded(self._solver, s) for s in noise_seeds(seed, 0, every))
        return twin

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """All the steps.

        Args:
            state: (batch, channel, *space).
            forcing: (batch, every, forcing_channel, *space), one for each of the steps, or None.
        """
        for k, solver in enumerate(self._in_turn):
            driven = None if forcing is None else forcing[:, k]
            # A copy: a solver may answer in the same memory every time.
            state = solver.step(state.clone() if k else state, driven)
        return state
