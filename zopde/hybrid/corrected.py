"""A solver that a network corrects at every step, or at every few."""

from __future__ import annotations

from typing import final

from torch import nn

from zopde.contracts import Domain, Forcing, Network, Solver, State, seedable, seeded
from zopde.hybrid.past import Past, check_past, remembering
from zopde.hybrid.told import told_of
from zopde.hybrid.unrolled import INJECTIONS, Injection, held, repeated


@final
class CorrectedSolver(nn.Module):
    """Lets a network correct every step of a solver.

    The solver stays a black box; the result is again a `Solver`, and a module that holds the
    network: `corrected(state, forcing)` is one step. Where the network is told more than the solver
    (`network.told`, names), these are further forcing channels of its grid, behind the solver's.
    Where it sees earlier states (`network.history`, how many), a step takes them, too, and refuses
    to go without: nothing is kept from step to step. `zopde.rollout` hands them on.

    Args:
        solver: The solver S.
        network: The corrector C, from (state, forcing) to a correction of the state's shape, or
            of the forcing's.
        injection: `InjectAfter()`, `InjectBefore()`, `InjectForcing()` or `InjectParameter()`,
            each with its formula.
            None: where the network belongs by its own account (`network.inject`, which
            `load_corrector` brings back), or after the step if it gives none.
        every: k, solver steps to a correction. A step of the result is k steps of the solver:
            its grid has k times the dt, and its forcing is (batch, k, forcing_channel, *space),
            of which the network sees the first; a corrected forcing is so in all k steps. None:
            by the network's own account (`network.every`), or 1, where nothing of this holds.
    """

    def __init__(
        self,
        solver: Solver,
        network: Network,
        injection: Injection | None = None,
        every: int | None = None,
    ) -> None:
        super().__init__()
        every = getattr(network, "every", 1) if every is None else every
        solver = told_of(solver, getattr(network, "told", ()))
        self._solver, self.network, self._every = repeated(solver, every), network, every
        self._injection = held(injection or INJECTIONS[getattr(network, "inject", "after")], every)
        self.seedable = seedable(solver)

    @property
    def grid(self) -> Domain:
        """The solver's grid, with the dt of a corrected step."""
        return self._solver.grid

    def with_seed(self, seed: int) -> CorrectedSolver:
        """The same with the solver's noise fixed; see `zopde.contracts.Seeded`."""
        return CorrectedSolver(seeded(self._solver, seed), self.network, self._injection, 1)

    @property
    def history(self) -> int:
        """How many earlier states the network sees."""
        return int(getattr(self.network, "history", 0))

    def extra_repr(self) -> str:
        """What a notebook shows above the network."""
        grid, times = self.grid, f", once in {self._every} steps" if self._every > 1 else ""
        cells = " x ".join(map(str, grid.shape))
        of = f"{', '.join(grid.channels)} on {cells} cells, dt {grid.dt:.4g}"
        injection = getattr(self._injection, "_injection", self._injection)
        return f"{type(injection).__name__}{times}, {of}"

    def forward(
        self, state: State, forcing: Forcing | None = None, past: Past | None = None
    ) -> State:
        """One corrected step, as `step`."""
        return self.step(state, forcing, past)

    def step(self, state: State, forcing: Forcing | None = None, past: Past | None = None) -> State:
        """One corrected step; see `zopde.Solver.step`.

        Args:
            state: (batch, channel, *space).
            forcing: (batch, forcing_channel, *space), or None.
            past: (batch, history, channel, *space), the states before `state`, each a corrected
                step earlier, the newest first; None where `history` is 0.
        """
        check_past(state, past, self.history)
        network = self.network if past is None else remembering(self.network, past)
        return self._injection.step(self._solver, network, state, forcing)
