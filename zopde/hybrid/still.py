"""A solver that costs nothing, for who compares ways of asking a network."""

from __future__ import annotations

from typing import final

from zopde.contracts import Domain, Forcing, State


@final
class Still:
    """Leaves every state where it is, but for the mean of its forcing: S(u, f) = u + mean_c f.

    So what a network gives reaches the next state, wherever it enters.
    """

    def __init__(self, grid: Domain) -> None:
        self.grid = grid

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """No solver step; see `zopde.Solver.step`."""
        return state.clone() if forcing is None else state + forcing.mean(dim=1, keepdim=True)
