"""A network that is linear in a perturbation: the learned derivative of a solver's step."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Domain, Forcing, State
from zopde.interface.vjp import Variable
from zopde.tangent.multigrid import PLACES, Gates, Multigrid
from zopde.validate import checked


@final
class Tangent(Multigrid):
    """Predicts how a perturbation of a step's input changes its result.

        N(u, f) d  =  d_u + s M(u, f) [d_u / s, g d_f / s_f]   ~   J(u, f) d

    M is a `Multigrid` of convolutions without bias, whose gates are made of the state and the
    forcing. So N is exactly linear in d, its transpose is exact by back-propagation, and it depends
    on u and f as a network does. A new one is N d = d_u.

    Outside of the grid's mask d counts as 0, and N d is 0.

    Args:
        grid: The solver's grid, of 1 to 3 axes; its boundary decides the padding, axis by axis.
        scale: (channel,), s, the standard deviations of the state.
        forcing_scale: (forcing_channel,), s_f; None where the solver has no forcing.
        forced: Whether the forcing is perturbed, too; without, d_f is no input.
        gain: g, the size of a response to the forcing in units of s, for perturbations in s_f.
        width: Channels of every level.
        places: Learned maps of position on each level; 0 for a solver that is the same everywhere.
    """

    scale: Tensor
    drive: Tensor
    gain: Tensor

    @checked
    def __init__(
        self,
        grid: Domain,
        scale: Float[Tensor, " channel"],
        forcing_scale: Float[Tensor, " forcing_channel"] | None = None,
        forced: bool = False,
        gain: float = 1.0,
        width: int = 16,
        places: int = PLACES,
    ) -> None:
        channels, forcings = len(grid.channels), len(grid.forcing_channels)
        moved = channels + forced * forcings
        super().__init__(grid, channels + forcings, moved, channels, width, places)
        self._forced, self._channels, self._forcings = forced, channels, forcings
        space = [1] * len(grid.shape)
        self.register_buffer("scale", scale.reshape(-1, *space).clone())
        drive = scale.new_ones(0) if forcing_scale is None else forcing_scale
        self.register_buffer("drive", drive.reshape(-1, *space).clone())
        self.register_buffer("gain", torch.tensor(float(gain)).to(scale))

    def gates(self, state: State, forcing: Forcing | None = None) -> Gates:
        """What the convolutions are multiplied by at every state: (batch, width, *space) each."""
        seen = state / self.scale
        if forcing is not None:
            seen = torch.cat([seen, forcing / self.drive], dim=1)
        return self.gates_of(seen)

    def forward(
        self,
        state: State,
        forcing: Forcing | None,
        perturbation: Float[Tensor, "batch directions varied *space"],
        variable: Variable = "state",
    ) -> Float[Tensor, "batch directions channel *space"]:
        """N d in the units of the state, for several d of each state."""
        return self.predict(self.gates(state, forcing), perturbation, variable)

    def predict(
        self,
        gates: Gates,
        perturbation: Float[Tensor, "batch directions varied *space"],
        variable: Variable = "state",
    ) -> Float[Tensor, "batch directions channel *space"]:
        """The same with gates that are known."""
        of_state = variable == "state"
        if self.fluid is not None:
            perturbation = torch.where(self.fluid, perturbation, 0.0)
        moved = perturbation / (self.scale if of_state else self.drive / self.gain)
        others = [
            *moved.shape[:2],
            self._forcings if of_state else self._channels,
            *moved.shape[3:],
        ]
        if self._forced or not of_state:
            rest = moved.new_zeros(others)
            moved = torch.cat([moved, rest] if of_state else [rest, moved], dim=2)
        predicted = self.scale * self.push(gates, moved)
        predicted = perturbation + predicted if of_state else predicted
        return predicted if self.fluid is None else torch.where(self.fluid, predicted, 0.0)
