"""The free product: the gradient passes a solver step as if the step left its state as it is."""

from __future__ import annotations

from typing import final

from zopde.contracts import Domain, State
from zopde.errors import InputError
from zopde.interface.vjp import Step, Varied


@final
class IdentityPullback:
    """Passes the gradient on unchanged, as if a step changed nothing; it makes no solver step.

        J^T v  ~  v         of the state:    S(u, f) = u + O(dt)
        J^T v  ~  dt v      of the forcing:  S(u, f) = u + dt f + O(dt^2)

    The error is that of the step's own change, |J - 1|: small where dt (the grid's) is small, large
    where one step mixes the state (diffusion, a pressure projection). No setting makes it fall, and
    unrolled steps add it up. Queries: none. No randomness.

    Source: Ouala et al., Communications Physics 2024, arXiv 2311.10665, "Static-EGA".

    Raises:
        InputError: If the answer has another shape than the state, or the forcing other channels
            than a source term of the state has.
    """

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        if step.variable == "forcing":
            check_source(step.solver.grid)
            return step.solver.grid.dt * cotangent
        if cotangent.shape != step.state.shape:
            got = f"a state of shape {tuple(step.state.shape[1:])}, "
            got += f"an answer of shape {tuple(cotangent.shape[1:])}"
            raise InputError("identity", got=got, expected="the same shape", remedy="use dense")
        return cotangent


def check_source(grid: Domain) -> None:
    """Require a forcing that can be a source term: as many channels as the state has."""
    inputs, outputs = len(grid.forcing_channels), len(grid.channels)
    if inputs != outputs:
        raise InputError(
            "identity",
            got=f"a forcing of {inputs} channels for a state of {outputs}",
            expected="a source term for each channel of the state",
            remedy="use another way of the interface",
        )
