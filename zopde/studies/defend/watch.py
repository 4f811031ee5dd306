"""Looking at a training now and then, and keeping the best network it came through."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import final

import torch
from torch import nn

from zopde.contracts import Objective
from zopde.studies.defend.blackbox import Ledger
from zopde.training import Gradient, GradientSource, load_checkpoint, save_checkpoint


@final
class Best:
    """The network with the least loss so far, in a file.

    A resumed training looks at the same networks again and sees the same, so it changes nothing.

    Args:
        path: The file.
        judge: network -> loss.
    """

    def __init__(self, path: Path, judge: Callable[[nn.Module], float]) -> None:
        self._path, self._judge = path, judge
        found = load_checkpoint(path) or {"loss": math.inf}
        self.loss: float = found["loss"]

    def look(self, network: nn.Module, iteration: int) -> None:
        """Judge, and keep what is better than all before."""
        loss = self._judge(network)
        if loss < self.loss:
            self.loss = loss
            state = {"loss": loss, "iteration": iteration, "network": network.state_dict()}
            save_checkpoint(self._path, state)

    @torch.no_grad()
    def restore(self, network: nn.Module) -> int | None:
        """Bring the best one back; says after how many updates it was, None if there is none."""
        found = load_checkpoint(self._path)
        if found is None:
            return None
        network.load_state_dict(found["network"])
        iteration: int = found["iteration"]
        return iteration


@final
class Watched:
    """Another source's gradients, the network looked at before every so many of them.

    Queries are what the ledger says, so whatever the iteration asked counts.

    Args:
        inner: Where gradients come from.
        ledger: The classifier's.
        best: What looks.
        every: Iterations between two looks.
        counted: What the training had asked when it was interrupted.
    """

    def __init__(
        self, inner: GradientSource, ledger: Ledger, best: Best, every: int, counted: int
    ) -> None:
        self._inner, self._ledger, self._best, self._every = inner, ledger, best, every
        self._counted = counted

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """At the inner source's price, and that of a look."""
        if iteration % self._every == 0:
            self._best.look(network, iteration)
        found = self._inner(network, objective, iteration)
        asked = self._ledger.asked - self._counted
        self._counted = self._ledger.asked
        return Gradient(found.loss, asked, found.active)
