"""The contracts between the rooms: what each side may count on, and nothing more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard, TypeVar, runtime_checkable

from jaxtyping import Float, Int
from torch import Generator, Tensor

from zopde.domain import Domain
from zopde.errors import InputError

__all__ = [
    "Differentiable",
    "Domain",
    "Downsampling",
    "Forcing",
    "Network",
    "Objective",
    "Oracle",
    "PerSample",
    "ReferenceSolver",
    "Scenario",
    "Seeded",
    "Solver",
    "State",
    "Vortical",
    "Window",
    "ask_shared",
]

State = Float[Tensor, "batch channel *space"]
"""States side by side, in the units of the grid's channels."""
Forcing = Float[Tensor, "batch forcing_channel *space"]
"""What drives each state from outside during one step."""

Field = TypeVar("Field", Tensor, Tensor | None)

Network = Callable[..., Tensor]
"""Maps (state, forcing) to a correction of the state's shape, states side by side."""


def repeat_states(states: Tensor | None, num_probes: int) -> Tensor | None:
    """(batch, ...) -> (num_probes * batch, ...), probe-major: the same states for every probe."""
    if not isinstance(states, Tensor) or not states.dim() or num_probes == 1:
        return states  # nothing that has a batch axis
    return states.repeat(num_probes, *[1] * (states.dim() - 1))


def ask_shared(
    network: Network, num_probes: int, *states: Tensor | None, **named: Tensor | None
) -> Tensor:
    """Evaluate a network on states that all probes have in common.

    The same numbers as `network(*repeated)`, but a `WeightOracle` computes the common part once.

    Args:
        network: What an objective was given.
        num_probes: Probes side by side.
        states: The network's arguments, (batch, ...) each, or None.
        named: Those that it takes by name.

    Returns:
        (num_probes * batch, ...), probe-major.
    """
    if shared := getattr(network, "shared", None):
        answer: Tensor = shared(*states, **named)
        return answer
    others = {name: repeat_states(value, num_probes) for name, value in named.items()}
    return network(*(repeat_states(value, num_probes) for value in states), **others)


class Solver(Protocol):
    """All that a user writes to plug in a solver.

    `step` answers for every state of the batch on its own, leaves its arguments as they
    are, and carries no gradient. A step that fails raises `SolverError`.
    """

    @property
    def grid(self) -> Domain:
        """The `Grid`, or the `Mesh`, on which `step` works."""

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance each state by `grid.dt`.

        Args:
            state: (batch, channel, *space), in the units of the grid's channels.
            forcing: (batch, forcing_channel, *space), everything known from outside at
                this step; None for a solver without forcing.

        Returns:
            The next state, same shape, dtype and device.
        """


@dataclass(frozen=True)
class Scenario:
    """Where a family of simulations starts and what drives it.

    Args:
        initial: (simulation, channel, *space), the states at step 0.
        forcing: Step number -> (simulation, forcing_channel, *space); None without forcing.
    """

    initial: Tensor
    forcing: Callable[[int], Tensor] | None = None


@runtime_checkable
class ReferenceSolver(Solver, Protocol):
    """A solver that can make its own reference data, at any resolution."""

    @property
    def options(self) -> Mapping[str, Any]:
        """What sets this solver apart from others of its class, without the grid's shape.

        Plain values: text, numbers, lists of them.
        """

    def at(self, shape: tuple[int, ...]) -> ReferenceSolver:
        """The same physics on a grid of `shape` cells."""

    def scenario(self, simulations: int, generator: Generator) -> Scenario:
        """Draw `simulations` random cases; the draw does not depend on the resolution."""


@runtime_checkable
class Downsampling(Protocol):
    """A solver whose state is not cell by cell, and that brings a fine state to its own grid.

    Without this method, and for a forcing always, `zopde.downsample` takes cell means.
    """

    def downsample(self, fine: State) -> State:
        """(batch, channel, *fine) -> (batch, channel, *grid.shape)."""


@runtime_checkable
class Vortical(Protocol):
    """A solver of plane flow that computes the vorticity of its states; a run then draws it."""

    def vorticity(self, state: State) -> Float[Tensor, "batch y x"]:
        """dv/dx - du/dy at the centres of the cells, NaN where there is no fluid.

        v is the velocity along y, the grid's first dimension, u that along x.
        """


@runtime_checkable
class Differentiable(Protocol):
    """A solver that has a differentiable twin, for the SOL baseline alone."""

    def differentiable_twin(self) -> Solver:
        """A solver whose `step` gives the same numbers and keeps the autograd graph."""


@runtime_checkable
class Seeded(Protocol):
    """A stochastic solver whose noise can be fixed.

    With a seed, `step` is a function of (state, forcing, seed), state by state: the noise does not
    depend on a state's place in the batch, nor on what was asked before. All probes of a gradient
    then meet the same noise (common random numbers), and their differences are differences of
    one smooth function. A solver around another one has `with_seed` and says with an attribute
    `seedable` whether the one inside has noise.
    """

    def with_seed(self, seed: int) -> Solver:
        """The same solver with its noise fixed; this one stays as it is.

        Args:
            seed: In [0, 2^31 - 1).
        """


def seedable(solver: object) -> TypeGuard[Seeded]:
    """Whether the noise of a solver can be fixed: a wrapper says it of the solver inside."""
    inside = getattr(solver, "seedable", None)
    return inside if isinstance(inside, bool) else getattr(solver, "with_seed", None) is not None


def seeded(solver: Solver, seed: int) -> Solver:
    """A solver with its noise fixed; itself where it has none."""
    return solver.with_seed(seed) if seedable(solver) else solver


def filled(grid: Domain | None, values: Field) -> Field:
    """`Grid.filled`, of what has no grid, or no values, too."""
    if grid is None or values is None or getattr(grid, "fluid", None) is None:
        return values
    return grid.filled(values)


def spread(grid: Domain | None, values: Field) -> Field:
    """`Grid.spread`, of what has no grid, or no values, too."""
    if grid is None or values is None or getattr(grid, "fluid", None) is None:
        return values
    return grid.spread(values)


@runtime_checkable
class Tally(Protocol):
    """Counts what a solver does, by name; what its copies in other processes count is added."""

    def counts(self) -> Counter[str]:
        """So far: "steps", in states, and others."""

    def add(self, counts: Counter[str]) -> None:
        """What a copy has counted."""


def counts_of(solver: object) -> Counter[str]:
    """What a solver has counted, by name; nothing where it is no `Tally`."""
    return solver.counts() if isinstance(solver, Tally) else Counter()


CHECKING: ContextVar[bool] = ContextVar("CHECKING", default=False)
"""True while numbers are compared with the solver's own: it counts those steps apart."""


@contextmanager
def counted_apart() -> Iterator[None]:
    """Inside this context a `Tally` counts solver steps as "checking" in place of "steps"."""
    token = CHECKING.set(True)
    try:
        yield
    finally:
        CHECKING.reset(token)


@dataclass
class Checks:
    """What an oracle says of the gradient that it answers."""

    queries: int = 0  # evaluations that went into comparing stacked probes with plain ones
    eps: float = 0.0  # relative precision of what it computes with; 0 where it does not say
    warned: list[str] = field(default_factory=list)  # what its gradients were warned of already


def movable(oracle: object, indices: Int[Tensor, " k"]) -> Int[Tensor, " n"]:
    """Those of some coordinates that a gradient has: an oracle leaves out what stays as it is."""
    chosen: Callable[[Tensor], Tensor] | None = getattr(oracle, "movable", None)
    return chosen(indices) if chosen else indices


def one_gradient(oracle: object) -> AbstractContextManager[Checks]:
    """Inside this context all queries belong to one gradient, and meet the same random numbers."""
    begin: Callable[[], AbstractContextManager[Checks]] | None
    begin = getattr(oracle, "one_gradient", None)
    return begin() if begin else nullcontext(Checks())


@dataclass(frozen=True)
class Window:
    """Pieces of reference data side by side: where each starts, and what should follow.

    Args:
        stepped: (batch, channel, *space), the solver's answer S(u[0], f[0]) to the first
            reference state. With a correction after the step it does not depend on the network,
            so it is asked for once; None asks every time.
        targets: (batch, unroll, channel, *space), the reference after 1 .. unroll steps.
        forcing: (batch, unroll, forcing_channel, *space), or None. Entry k drove the step
            from k to k + 1; (batch, unroll, every, forcing_channel, *space) if `every` > 1.
        initial: (batch, channel, *space), the first reference state u[0]; may be None where the
            correction comes after the step.
        every: Solver steps that are one step here; see `CorrectedSolver`.
        past: (batch, history, channel, *space), the states before `initial`, each such a step
            earlier, the newest first, for a network that sees them; None for any other.

    Raises:
        InputError: If there is neither an initial state nor the answer to it, or a past of none.
    """

    stepped: Tensor | None
    targets: Tensor
    forcing: Tensor | None = None
    initial: Tensor | None = None
    every: int = 1
    past: Tensor | None = None

    def __post_init__(self) -> None:
        if self.initial is None and (self.stepped is None or self.past is not None):
            raise InputError("window", got="no initial state", expected="`initial` or `stepped`")

    @property
    def batch(self) -> int:
        """Number of stretches side by side."""
        return self.targets.shape[0]

    @property
    def unroll(self) -> int:
        """Number of corrected steps that the loss sees."""
        return self.targets.shape[1]

    def part(self, row: int, steps: int) -> Window:
        """The first steps of a single stretch, which stays a batch of one."""
        one = slice(row, row + 1)
        of = [None if whole is None else whole[one] for whole in (self.stepped, self.initial)]
        forcing = None if self.forcing is None else self.forcing[one, :steps]
        targets = self.targets[one, :steps]
        past = None if self.past is None else self.past[one]
        return Window(of[0], targets, forcing, of[1], self.every, past)


class Objective(Protocol):
    """A loss that is evaluated for many probes at once.

    First-order training is the case `num_probes = 1`, so back-propagation and
    zeroth-order estimates share one objective.
    """

    def __call__(self, network: Network, num_probes: int) -> Float[Tensor, " num_probes"]:
        """Evaluate every probe.

        Args:
            network: Maps tensors of (num_probes * batch, ...), probe-major, to corrections.
            num_probes: How many probes lie side by side.

        Returns:
            One loss per probe.
        """


@runtime_checkable
class PerSample(Protocol):
    """An objective that also tells the loss of each sample; `zopde.oracle.UnitOracle` needs it.

    The objective itself is then the mean of these over the batch, and the network is called once.
    """

    def per_sample(self, network: Network, num_probes: int) -> Float[Tensor, "num_probes batch"]:
        """Evaluate every probe, one loss per sample.

        Args:
            network: As an `Objective` gets it.
            num_probes: How many probes lie side by side.

        Returns:
            (num_probes, batch): entry (p, s) depends on no other sample than s.
        """


class Oracle(Protocol):
    """Evaluates a loss l, a black box, at and around a base point theta."""

    @property
    def num_coordinates(self) -> int:
        """Length d of theta."""

    def base(self) -> Float[Tensor, ""]:
        """l(theta): one query."""

    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(theta + mu e_i) for every i of `indices`: k queries; theta stays as it is.

        Args:
            indices: (k,) coordinates.
            mu: How far, in the units of theta: one number, or (k,), one for each.
        """

    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(theta + mu u_j) for every row u_j: q queries; theta stays as it is.

        Args:
            directions: (q, d), of any dtype and device; the rows are not scaled.
            mu: Step along each, of either sign.
        """
