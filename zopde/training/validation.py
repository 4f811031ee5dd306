"""A loss that no gradient sees, measured now and then; the weights at its least are kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor, nn


@dataclass(frozen=True)
class Best:
    """The best network so far, and what was looked at; plain values, for a checkpoint."""

    loss: float = math.inf  # its validation loss
    iteration: int = 0  # updates that it had had
    weights: dict[str, Tensor] = field(default_factory=dict)  # its state; empty before any look
    looked: int = -1  # updates at the latest look; -1 before any
    latest: float = math.inf  # the loss then
    solver_steps: int = 0  # of all looks, in states
    tired: bool = False  # whether the best is as many looks old as one may wait


@dataclass(frozen=True)
class Validation:
    """Says when a network is looked at, by what, and when a training has waited long enough.

    Args:
        loss_of: Network -> its loss on data that no training sees, the same at every look.
        every: Iterations from one look to the next; the first is before any update, the last
            behind all. 0: none at all.
        patience: Looks without a better one that end a training; 0: it runs to its end.
        solver_steps: Reads a counter of the solver steps that looks take.
    """

    loss_of: Callable[[nn.Module], float]
    every: int
    patience: int = 0
    solver_steps: Callable[[], int] = lambda: 0

    def look(self, network: nn.Module, iteration: int, best: Best) -> Best:
        """The best after a look, the first one at that iteration; a loss of NaN is infinite."""
        if best.looked == iteration:
            return best
        before = self.solver_steps()
        loss = self.loss_of(network)
        loss = loss if math.isfinite(loss) else math.inf
        spent = best.solver_steps + self.solver_steps() - before
        seen = replace(best, looked=iteration, latest=loss, solver_steps=spent)
        if best.weights and not loss < best.loss:
            waited = iteration - best.iteration
            return replace(seen, tired=0 < self.patience * self.every <= waited)
        weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
        return replace(seen, loss=loss, iteration=iteration, weights=weights)


UNWATCHED = Validation(lambda _: math.nan, every=0)
"""No look at all: a training ends with its last weights."""
