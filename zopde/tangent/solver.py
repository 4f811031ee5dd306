"""One line that lets any PyTorch code back-propagate through a solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor

from zopde.blackbox import BlackBox, CountedSolver
from zopde.contracts import Domain, Forcing, Solver, State, filled
from zopde.errors import InputError
from zopde.grid import Grid, check_forcing, check_state
from zopde.interface.identity import check_source
from zopde.interface.vjp import queried
from zopde.mesh import Mesh
from zopde.progress import Progress, Silent
from zopde.tangent.compared import Finite
from zopde.tangent.ready import EXAMPLES, Case, Ready, made_ready
from zopde.validate import check_count, check_not_negative, check_positive, checked

Way = Literal["auto", "identity", "dense", "coloured", "bank", "random", "tangent"]


@dataclass(frozen=True)
class DerivativeReport:
    """Says how a solver is differentiated, what that took, and how wrong it may be."""

    way: str  # the way; "" before it is chosen, where no examples were given
    once: int  # solver steps that were made to get ready; what lay in the store took none
    steps: int  # all solver steps so far: those, forward steps, products and comparisons
    # Relative error of the response to a random change, in the worst channel: of the tangent where
    # it learned nothing, or the largest that a comparison with the solver has seen since; None
    # where it is exact up to mu, or not known yet
    error: float | None
    note: str  # what was found
    # The largest error of a product that was compared with the solver along a random direction,
    # relative to the product; None where none was. That of a single product is of this size or so
    product: float | None = None

    def __str__(self) -> str:
        """The same in a line."""
        said = [f"{self.once:,} solver steps once, {self.steps:,} in all"]
        if self.error is not None:
            said.append(f"responses to random changes are off by {self.error:.2g} of their size")
        if self.product is not None:
            said.append(f"products along random directions by {self.product:.2g}")
        return f"{self.way or 'no way yet'}: {'; '.join([*said, self.note])}"


@final
class DifferentiableSolver:
    """A `zopde.Solver` that back-propagation passes; `differentiable` makes it.

        forward:   u' = S(u, f)
        backward:  dL/du = J_u^T dL/du',   dL/df = J_f^T dL/du',   by the way that was chosen

    Each is computed only where the state or the forcing requires a gradient. There is no second
    derivative.

    Args:
        solver: The user's solver.
        prepare: (black box, state, forcing) -> a way that is ready.
        states: Examples at which it gets ready now; None waits for the first step that needs it.
        forcing: Their forcing, or None.
    """

    def __init__(
        self,
        solver: Solver,
        prepare: Callable[[Solver, State, Forcing | None], Ready],
        states: State | None = None,
        forcing: Forcing | None = None,
    ) -> None:
        self._counter = CountedSolver(solver)
        # What lies in a store is added to the counts of the box, and not to the counter's.
        self._box, self._examples = Finite(BlackBox(self._counter)), states
        self._prepare = prepare
        self._once = 0
        self._ready = None if states is None else self._made_ready(states, forcing)

    def _made_ready(self, state: State, forcing: Forcing | None) -> Ready:
        before = self._steps
        driven = None if forcing is None else filled(self.grid, forcing.detach())
        ready = self._prepare(self._box, filled(self.grid, state.detach()), driven)
        self._once = self._steps - before
        return ready

    @property
    def _steps(self) -> int:
        return self._counter.steps + self._counter.counts()["checking"]

    @property
    def grid(self) -> Domain:
        """The solver's grid."""
        return self._box.grid

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step, a node of the graph where a gradient is required; see `zopde.Solver.step`.

        Raises:
            InputError: If the state or the forcing does not suit the grid or the examples.
            SolverError: If the solver fails, or its answer is not finite.
        """
        if isinstance(state, Tensor) and not len(state):
            raise InputError("state", got="a batch of 0 states", expected="at least one")
        check_state(self.grid, state)
        check_forcing(self.grid, forcing, len(state))
        like = self._examples
        if like is not None and (state.dtype, state.device) != (like.dtype, like.device):
            got, expected = f"{state.dtype} on {state.device}", f"{like.dtype} on {like.device}"
            raise InputError("state", got=got, expected=f"{expected}, as the examples are")
        needed = state.requires_grad or (forcing is not None and forcing.requires_grad)
        if not (needed and torch.is_grad_enabled()):
            return self._box.step(state, forcing)
        ready = self._ready = self._ready or self._made_ready(state, forcing)
        if ready.way == "identity" and forcing is not None and forcing.requires_grad:
            check_source(self.grid)
        return queried(self._box, ready.pullback, state, forcing)

    def report(self) -> DerivativeReport:
        """Which way, how many solver steps so far, and what error to expect."""
        ready = self._ready
        if ready is None:
            return DerivativeReport("", 0, self._steps, None, "chosen with the first gradient")
        found = ready.error(), ready.note(), ready.product()
        return DerivativeReport(ready.way, self._once, self._steps, *found)


@checked
def differentiable(
    solver: Solver,
    states: Tensor | None = None,
    forcing: Tensor | None = None,
    *,
    way: Way = "auto",
    budget: int = 1280,
    store: Path | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    mu: float = 1e-3,
) -> DifferentiableSolver:
    """Make a solver that any PyTorch code can back-propagate through: a loop, an inverse problem.

    The solver stays a black box. How its derivative is measured is the `way`: "auto" takes
    "coloured" where a step reaches a few cells only; else "bank" where the state has few entries;
    else "tangent", a network that learns the derivative from `budget` solver steps. The rule and
    the other ways: docs/ways.md. The products 1, 2, 4, 8 and then every tenth are compared
    with the solver; a warning says where one does not fit.

    Queries: coloured, at most 64 solver steps for each input, and comparisons, to measure the
    reach; bank, 10 for each entry of the inputs; tangent, `budget`. Then, for each product: colours
    times channels, dense as many as there are entries, random 64, the others none.

    Args:
        solver: A `zopde.Solver`; with the same input it must always give the same result.
        states: (examples, channel, *space), typical states, some dozens or more. Without them
            bank and tangent are refused, and the reach is measured at the states of the
            first step that needs a gradient.
        forcing: (examples, forcing_channel, *space), where the solver takes a forcing: what a
            tangent or a bank knows of it comes from here.
        way: "auto", "identity", "dense", "coloured", "bank", "random" or "tangent".
        budget: Solver steps of a tangent at most, for all inputs together.
        store: A folder that keeps what is measured, for the same solver at the same states: the
            next call measures nothing again, and one that was cut off goes on. None keeps nothing.
        seed: Of all that is random.
        progress: Who is told how far it is; nobody by default.
        mu: Finite-difference step, in standard deviations of each channel. A smaller one where the
            solver is strongly nonlinear, a larger one where its answers are rounded: a warning
            says which.

    Raises:
        InputError: If an argument will not do, the way does not suit the solver, or a bank or a
            tangent is no derivative at all at a state that was looked at.
        SolverError: If the solver fails, answers with numbers that are not finite, or answers
            otherwise than before: by chance, or with another parameter.

    Example:
        >>> import torch, zopde
        >>> class Decay:
        ...     grid = zopde.Grid((8,), (1.0,), 0.1, ("u",))
        ...
        ...     def step(self, state, forcing=None):
        ...         return 0.5 * state
        >>> u = torch.ones(1, 1, 8, requires_grad=True)
        >>> zopde.differentiable(Decay()).step(u).sum().backward()
        >>> torch.allclose(u.grad, torch.tensor(0.5), atol=1e-3)
        True
    """
    if isinstance(solver, type):
        name = solver.__name__
        raise InputError("solver", got=f"the class {name}", expected=f"an object: {name}(...)")
    if not isinstance(getattr(solver, "grid", None), Grid | Mesh) or not callable(
        getattr(solver, "step", None)
    ):
        got, expected = (
            type(solver).__name__,
            "an object with a zopde.Grid `grid` (or Mesh) and a method `step`",
        )
        raise InputError("solver", got=got, expected=expected)
    check_count("budget", budget)
    check_not_negative("seed", seed)
    check_positive("mu", mu)
    if states is None:
        if forcing is not None:
            raise InputError("states", got="none, and a forcing", expected=EXAMPLES)
        if way in ("bank", "tangent"):
            raise InputError("states", got=f"none, for the way {way!r}", expected=EXAMPLES)
    else:
        check_state(solver.grid, states)
        check_forcing(solver.grid, forcing, len(states))
        states, forcing = filled(solver.grid, states), filled(solver.grid, forcing)
        for name, values in (("states", states), ("forcing", forcing)):
            if values is not None and not (len(values) and bool(values.isfinite().all())):
                raise InputError(name, got="none, or NaN", expected=f"finite numbers: {EXAMPLES}")
    folder = None if store is None else Path(store)

    def prepare(box: Solver, state: State, driven: Forcing | None) -> Ready:
        rest = states is not None, budget, folder, seed, progress or Silent(), solver, mu
        return made_ready(Case(box, state, driven, *rest), way)

    return DifferentiableSolver(solver, prepare, states, forcing)
