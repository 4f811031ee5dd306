"""A solver's step as a black box of one state's entries, for the tools that judge a mu."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.interface.vjp import Step
from zopde.protocols import State


@final
class EntryOracle:
    """Answers l(x) = <v, S(x)> around one state: its gradient is J^T v.

    A `zopde.protocols.Oracle`, so that `sweep_mu` and `measure_noise` work on a solver's step as
    on a loss.

    Args:
        step: A step of one state.
        cotangent: (1, channel, *space), v.
        states: States of a solver call at most.
    """

    def __init__(self, step: Step, cotangent: State, states: int = 64) -> None:
        self._step, self._cotangent, self._states = step, cotangent, states

    @property
    def num_coordinates(self) -> int:
        """Entries of the varied input."""
        return self._step.point[0].numel()

    def base(self) -> Float[Tensor, ""]:
        """l(x), asked anew."""
        return self._ask(self._step.point.flatten(1))[0]

    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(x + mu e_i) for every i; see `zopde.protocols.Oracle`."""
        points = self._step.point.flatten(1).repeat(len(indices), 1)
        far = torch.as_tensor(mu, dtype=points.dtype, device=points.device)
        points[torch.arange(len(indices)), indices] += far
        return self._ask(points)

    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(x + mu u_j) for every row; see `zopde.protocols.Oracle`."""
        return self._ask(self._step.point.flatten(1) + mu * directions.to(self._step.point))

    def _ask(self, points: Tensor) -> Tensor:
        found = []
        for part in points.split(self._states):
            rows = torch.zeros(len(part), dtype=torch.long, device=part.device)
            answers = self._step.ask(rows, part.view(-1, *self._step.point.shape[1:]))
            found.append((answers * self._cotangent).double().flatten(1).sum(dim=1))
        return torch.cat(found)
