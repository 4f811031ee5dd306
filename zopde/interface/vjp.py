"""The contract: a solver whose step can be back-propagated through, answered by queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from zopde.contracts import Forcing, Solver, State, seeded
from zopde.grid import Grid

Variable = Literal["state", "forcing"]


class Stepping(Protocol):
    """A black box with an answer for every state of a batch; a `Solver` is one.

    What it answers need not be a state: a frozen classifier behind a latent may answer one loss
    for each, with the label it is held to in the place of the forcing (`cut="latent"`).
    """

    def step(self, state: State, forcing: Forcing | None = None) -> Tensor:
        """(batch, channel, *space) -> (batch, ...), without a graph."""
        ...


@dataclass(frozen=True)
class Step:
    """One step of a black box that was taken, and the input whose influence is asked for.

    Args:
        solver: What was stepped; may be asked again, at a price.
        state: (batch, channel, *space), where from.
        forcing: (batch, forcing_channel, *space), or None.
        stepped: (batch, channel, *space), the solver's answer.
        variable: The input to vary, "state" or "forcing".
    """

    solver: Solver
    state: State
    forcing: Forcing | None
    stepped: State
    variable: Variable = "state"

    @property
    def point(self) -> Float[Tensor, "batch varied_channel *space"]:
        """The varied input, where the step was taken."""
        if self.variable == "state":
            return self.state
        assert self.forcing is not None, "a step without forcing has no influence of it"
        return self.forcing

    @torch.no_grad()
    def ask(
        self, rows: Int[Tensor, " probes"], values: Float[Tensor, "probes varied_channel *space"]
    ) -> Float[Tensor, "probes channel *space"]:
        """What the solver answers if row `rows[p]` of the varied input were `values[p]`.

        One solver call for `probes` states; the other input stays that of the row.
        """
        if self.variable == "forcing":
            return self.solver.step(self.state[rows], values)
        return self.solver.step(values, None if self.forcing is None else self.forcing[rows])


class Pullback(Protocol):
    """A way to get the vector-Jacobian product of a solver step from queries."""

    def __call__(
        self, step: Step, cotangent: State
    ) -> Float[Tensor, "batch varied_channel *space"]:
        """J^T v for every state of the batch, J = d S / d(step.variable) at the step.

        Args:
            step: The step that was taken.
            cotangent: (batch, channel, *space), v, the loss's gradient at `step.stepped`.

        Returns:
            Of the shape of `step.point`.
        """
        ...


@final
class PullbackByVariable:
    """One way to ask for the influence of the state, another for that of the forcing.

    Args:
        state: What answers for the state.
        forcing: What answers for the forcing.
    """

    def __init__(self, state: Pullback, forcing: Pullback) -> None:
        self._ways = {"state": state, "forcing": forcing}

    def __call__(
        self, step: Step, cotangent: State
    ) -> Float[Tensor, "batch varied_channel *space"]:
        """See `Pullback`."""
        return self._ways[step.variable](step, cotangent)


def by_variable(ways: Mapping[Variable, Pullback]) -> Pullback:
    """A pullback for each of the inputs that are asked for: the state, or both."""
    state = ways["state"]
    return PullbackByVariable(state, ways["forcing"]) if "forcing" in ways else state


@final
class InterfaceSolver:
    """A black-box solver that back-propagation can pass, by queries: `cut="interface"`.

        forward:   u' = S(u, f), without a graph
        backward:  (dL/du, dL/df) = pullback(step, dL/du'),   asked only where it is needed

    It is a `Solver`, so an `UnrolledObjective` over it under plain back-propagation is
    ZO-interface; only the solver is probed, never the network. The price does not depend on the
    number of weights.

    Args:
        solver: The black box. Wrap it in a counter to count the queries.
        pullback: How the vector-Jacobian product is asked for: `DensePullback`,
            `ColouredPullback`, `AmortisedPullback`, `RandomPullback`.
    """

    def __init__(self, solver: Solver, pullback: Pullback) -> None:
        self._solver = solver
        self._pullback = pullback

    @property
    def grid(self) -> Grid:
        """The solver's grid."""
        return self._solver.grid

    def with_seed(self, seed: int) -> InterfaceSolver:
        """The same with the solver's noise fixed, in the backward pass, too."""
        return InterfaceSolver(seeded(self._solver, seed), self._pullback)

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`. Queries are spent in the backward pass only."""
        return queried(self._solver, self._pullback, state, forcing)


def queried(
    solver: Stepping, pullback: Pullback, state: State, forcing: Forcing | None = None
) -> Tensor:
    """The answer of a black box, as a node of the autograd graph; see `InterfaceSolver`.

    Args:
        solver: The black box.
        pullback: How its vector-Jacobian product is asked for.
        state: (batch, channel, *space), what it is asked about.
        forcing: What else it is told, row by row; None for nothing.

    Returns:
        `solver.step(state, forcing)`.
    """
    stepped: Tensor = _Stepped.apply(  # type: ignore[no-untyped-call]
        state, forcing, solver, pullback
    )
    return stepped


class _Stepped(torch.autograd.Function):
    """The step as a node of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own signature
        state: State,
        forcing: Forcing | None,
        solver: Stepping,
        pullback: Pullback,
    ) -> Tensor:
        stepped = solver.step(state, forcing)
        if stepped is state or stepped is forcing:
            stepped = stepped.clone()  # a node's output must be its own
        ctx.solver, ctx.pullback = solver, pullback
        ctx.save_for_backward(state, forcing, stepped)
        return stepped

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        cotangent: State,
    ) -> tuple[State | None, Forcing | None, None, None]:
        state, forcing, stepped = ctx.saved_tensors
        variables: tuple[Variable, ...] = ("state", "forcing")
        found = [
            ctx.pullback(Step(ctx.solver, state, forcing, stepped, variable), cotangent)
            if needed
            else None
            for variable, needed in zip(variables, ctx.needs_input_grad[:2], strict=True)
        ]
        return found[0], found[1], None, None
