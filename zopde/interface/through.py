"""A black-box step that back-propagation passes: its derivative comes from solver steps."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from zopde.contracts import Forcing, Solver, State, seedable, seeded
from zopde.errors import InputError
from zopde.grid import Grid
from zopde.interface.vjp import Pullback, Step, Stepping, Variable


@final
class InterfaceSolver:
    """Lets back-propagation pass a black-box solver, by queries: `cut="interface"`.

        forward:   u' = S(u, f), without a graph
        backward:  (dL/du, dL/df) = pullback(step, dL/du'),   only where it is needed

    An `UnrolledObjective` over it under plain back-propagation is ZO-interface: only the solver is
    probed, never the network, so the price does not depend on the number of weights.

    Args:
        solver: The black box. Wrap it in a counter to count the queries.
        pullback: How the vector-Jacobian product is measured: `DensePullback`,
            `ColouredPullback`, `BankPullback`, `CorrectedPullback`; or `IdentityPullback`, which
            measures nothing.
    """

    def __init__(self, solver: Solver, pullback: Pullback) -> None:
        self._solver, self._pullback = solver, pullback
        self.seedable = seedable(solver)

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
    """Step a black box, as a node of the autograd graph; see `InterfaceSolver`.

    Args:
        solver: The black box.
        pullback: How its vector-Jacobian product is measured.
        state: (batch, channel, *space), its input.
        forcing: Its second input, row by row; None for nothing.
    """
    if state.requires_grad and state.is_complex():
        remedy = "hold the real and the imaginary part in two channels"
        raise InputError("state", got="complex numbers", expected="real ones", remedy=remedy)
    grid = getattr(solver, "grid", None)
    if isinstance(grid, Grid):  # so nothing outside of the mask has a gradient
        state, forcing = grid.filled(state), None if forcing is None else grid.filled(forcing)
    stepped: Tensor = _Stepped.apply(state, forcing, solver, pullback)  # type: ignore[no-untyped-call]
    return grid.filled(stepped) if isinstance(grid, Grid) else stepped


class _Stepped(Function):
    """The step as a node of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own signature
        state: State,
        forcing: Forcing | None,
        solver: Stepping,
        pullback: Pullback,
    ) -> Tensor:
        stepped = solver.step(state, forcing).clone()  # a node's output must be its own
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
        products: list[Tensor | None] = [None, None]
        for n, variable in enumerate(variables):
            if ctx.needs_input_grad[n]:
                step = Step(ctx.solver, state, forcing, stepped, variable)
                products[n] = ctx.pullback(step, cotangent)
        return products[0], products[1], None, None
