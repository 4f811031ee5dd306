"""A black-box step that back-propagation passes: its derivative comes from solver steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from zopde.contracts import Domain, Forcing, Solver, State, filled, seedable, seeded, spread
from zopde.errors import InputError
from zopde.interface.asking import by_workers
from zopde.interface.scales import is_constant, least_scale, step_scale
from zopde.validate import check_choice, check_count, check_positive
from zopde.zo.cge import Scheme

Variable = Literal["state", "forcing"]
"""The input of a step with respect to which it is derived."""
Varied = Float[Tensor, "batch varied_channel *space"]
Rows = Int[Tensor, " probes"]
Responses = Float[Tensor, "probes channel *space"]
Scale = Float[Tensor, " channel"] | float | None
_ENTRIES = 2**22  # of the states of a solver call: some solvers take twenty times as much inside
# One solver call: rows of a batch, and a direction for each, flat or of the varied input's shape.
# Directions of few entries each may lie in a sparse tensor; as such they travel.
Call = tuple[Rows, Tensor]


class Stepping(Protocol):
    """A black box with an output, such as a loss, for every state of a batch; a `Solver` is one.

    A frozen classifier behind a latent has the label in the place of the forcing.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> Tensor:
        """(batch, channel, *space) -> (batch, ...), without a graph."""


@dataclass(frozen=True)
class Step:
    """One step that a black box has taken, and the input with respect to which it is derived."""

    solver: Solver  # what was stepped; whoever derives the step calls it again
    state: State  # (batch, channel, *space), where from
    forcing: Forcing | None  # (batch, forcing_channel, *space), or None
    stepped: State  # (batch, channel, *space), `solver.step(state, forcing)`
    variable: Variable = "state"  # the input to vary, "state" or "forcing"

    def __post_init__(self) -> None:
        if self.fluid is not None and not self.stepped[..., ~self.fluid].isfinite().all():
            got, expected = "NaN outside of the mask", "the answer of a black box"
            raise InputError("step", got=got, expected=expected, remedy="zopde.BlackBox(solver)")

    @property
    def fluid(self) -> Bool[Tensor, "*space"] | None:
        """The mask of the solver's grid; None where there is none, or a black box has no grid."""
        return getattr(getattr(self.solver, "grid", None), "fluid", None)

    def fluid_values(self, values: Tensor) -> Float[Tensor, "batch channels cells"]:
        """(batch, channels, *space) -> the values of the cells with fluid alone."""
        if self.fluid is None:
            return values.flatten(1).view(*values.shape[:2], -1)
        return self.solver.grid.fluid_values(values)

    @property
    def entries(self) -> Int[Tensor, " entries"]:
        """Numbers of the entries of the varied input that can be moved, those of the fluid."""
        one = self.point[:1]
        numbers = torch.arange(one.numel(), device=one.device).view_as(one)
        return self.fluid_values(numbers).flatten()

    @property
    def point(self) -> Varied:
        """The varied input, where the step was taken."""
        if self.variable == "state":
            return self.state
        assert self.forcing is not None, "a step without forcing has no influence of it"
        return self.forcing

    def at(self, row: int) -> Step:
        """The step of a single state of the batch, which stays a batch of one."""
        one = slice(row, row + 1)
        forcing = None if self.forcing is None else self.forcing[one]
        return Step(self.solver, self.state[one], forcing, self.stepped[one], self.variable)

    @torch.no_grad()
    def query(self, rows: Rows, values: Float[Tensor, "probes varied_channel *space"]) -> Responses:
        """The step as it would be if row `rows[p]` of the varied input were `values[p]`.

        One solver call for `probes` states; the other input stays that of the row.
        """
        grid = getattr(self.solver, "grid", None)
        if self.variable == "forcing":
            return self.solver.step(spread(grid, self.state[rows]), spread(grid, values))
        forcing = None if self.forcing is None else self.forcing[rows]
        return self.solver.step(spread(grid, values), spread(grid, forcing))


def varied_shape(grid: Domain, variable: Variable) -> tuple[int, ...]:
    """Shape of the varied input of one state."""
    return grid.state_shape if variable == "state" else grid.forcing_shape


def entries_of(grid: Domain, variables: Iterable[Variable]) -> int:
    """Count the entries of the varied inputs of one state that can be moved, all together."""
    return grid.fluid_cells * sum(varied_shape(grid, variable)[0] for variable in variables)


@dataclass(frozen=True)
class Due:
    """The numbers of the products to look at: some of the first ones, then one of every so many."""

    every: int = 10  # 0 looks at none

    def __contains__(self, number: object) -> bool:
        """Counted from 0: 0, 1, 3, 7, that is the products 1, 2, 4, 8, and multiples of `every`."""
        if not isinstance(number, int) or not self.every:
            return False
        return number % self.every == 0 or (number < self.every and (number + 1).bit_count() == 1)


@dataclass(frozen=True)
class Probing:
    """How the response of a step to a change of its input is measured.

    Raises:
        InputError: If `mu`, `states` or a scale is not positive, or the scheme is unknown.
    """

    mu: float = 1e-3  # finite-difference step, in units of `scale`; > 0
    scheme: Scheme = "forward"  # "forward" or "central"
    states: int = 512  # states of a solver call at most; fewer of more than 8,192 entries each
    # What makes the calls; None is this process. The numbers do not depend on it, where its
    # processes have as many threads as this one. The solver must pickle for it
    executor: Executor | None = None
    # (channel,), what a step is measured in, channel by channel of the varied input: its standard
    # deviations. A number holds for all channels: 1.0 is the input's own units. None measures the
    # channels of every state by itself, see `step_scale`, and takes the nearest power of two
    scale: Scale = None

    def __post_init__(self) -> None:
        check_positive("mu", self.mu)
        check_choice("scheme", self.scheme, ("forward", "central"))
        check_count("states", self.states)
        given = torch.as_tensor(1.0 if self.scale is None else self.scale)
        if given.dim() > 1 or not bool((given.isfinite() & (given > 0)).all()):
            raise InputError("scale", got=given.tolist(), expected="finite numbers > 0")

    def units(self, step: Step) -> Varied:
        """(batch, channel, 1, ...), what `mu` is a multiple of at every state of a step."""
        point, scale = step.point, self.scale
        if scale is None:
            values, least = step.fluid_values(point), point.new_zeros(())
            if step.variable == "state" and step.stepped.shape == point.shape:
                answers = step.fluid_values(step.stepped)
                # What is still at rest may move a step later.
                values = torch.where(is_constant(values)[..., None], answers, values)
                least = least_scale(answers.abs().median(dim=2).values, self.mu)
            scale = torch.maximum(step_scale(values, self.mu), least)
            scale = scale.log2().round().exp2()  # dividing by a power of two rounds nothing off
        scale = torch.as_tensor(scale).detach().to(point)
        if scale.dim() and scale.shape[-1] != point.shape[1]:
            expected = f"one for each of the {point.shape[1]} channels of the {step.variable}"
            raise InputError("scale", got=f"{scale.shape[-1]} numbers", expected=expected)
        units = scale.expand(point.shape[:2]).contiguous()
        if self.scale is not None:
            units = self._above_rounding(
                units, step.fluid_values(point).square().mean(dim=2).sqrt()
            )
        return units.view(*point.shape[:2], *[1] * (point.dim() - 2))

    def _above_rounding(self, units: Tensor, sizes: Tensor) -> Tensor:
        """Units of which `mu` moves numbers of these sizes; where given ones do not, a warning."""
        least = least_scale(sizes, self.mu)
        lost = units < least / 8
        if lost.any():
            channel = int(lost.any(dim=0).nonzero()[0])
            unit, size = float(units[:, channel].min()), float(sizes[:, channel].max())
            text = f"channel {channel}: mu {self.mu:g} of a scale of {unit:.1g} is lost in the "
            text += f"rounding of numbers of size {size:.1g}; a larger step is taken: subtract "
            warnings.warn(f"{text}the mean, or compute in float64", stacklevel=2)
        return torch.where(lost, least, units)

    @property
    def steps(self) -> int:
        """Solver steps that a probe takes."""
        return 2 if self.scheme == "central" else 1

    def per_call(self, entries: int) -> int:
        """Probes of one solver call, where the varied input has so many entries."""
        return max(1, min(self.states, _ENTRIES // entries) // self.steps)

    def calls(self, probes: int, like: Varied) -> Sequence[Int[Tensor, " probes"]]:
        """The numbers of the probes of each solver call, on the device of the varied input."""
        numbers = torch.arange(probes, device=like.device)
        calls: Sequence[Tensor] = numbers.split(self.per_call(like[0].numel()))
        return calls


def differences(
    step: Step,
    rows: Rows,
    directions: Float[Tensor, "probes varied_channel *space"],
    mu: float,
    scheme: Scheme = "forward",
) -> Responses:
    """J d for every probe, by finite differences; one solver call.

        forward:  [S(x + mu d) - S(x)] / mu                error mu/2 S''[d, d] + O(mu^2)
        central:  [S(x + mu d) - S(x - mu d)] / (2 mu)     error O(mu^2)

    S(x) is known, so a forward difference is one solver step, a central one two. Where one of
    those two failed (is not finite), the other one and S(x) make a one-sided difference; where
    nothing is left, the difference is not finite. `rows[p]` is the state of the batch to which
    probe p belongs.
    """
    point = step.point[rows]
    ahead = point + mu * directions
    if scheme == "forward":
        return (step.query(rows, ahead) - step.stepped[rows]) / mu
    both = step.query(rows.repeat(2), torch.cat([ahead, point - mu * directions]))
    first, second = both.chunk(2)
    central = (first - second) / (2 * mu)
    lost = failed(central)
    if lost.any():
        here = step.stepped[rows]
        one_sided = torch.where(per_row(failed(first), first), here - second, first - here) / mu
        central = torch.where(per_row(lost, central), one_sided, central)
    return central


def responses(step: Step, calls: Iterable[Call], probing: Probing) -> Iterator[Responses]:
    """Measure J d for every direction of every call, call after call; see `differences`.

    By this process or by the workers of `probing.executor`: the same bits, however many they are.
    A call has at most as many probes as `Probing.per_call` says; `mu` is a multiple of the
    directions as they are.
    """
    early, due = dict[int, Responses](), 0
    for number, found in as_they_come(step, calls, probing):
        early[number] = found
        while due in early:
            yield early.pop(due)
            due += 1


def as_they_come(
    step: Step, calls: Iterable[Call], probing: Probing
) -> Iterator[tuple[int, Responses]]:
    """As `responses`, with the number of the call, in the order in which they finish."""
    if probing.executor is None:
        for number, (rows, directions) in enumerate(calls):
            yield number, _answered(step, probing, rows, directions)
        return
    # A view would be pickled with everything that it is a view of.
    forcing = None if step.forcing is None else step.forcing.detach().clone()
    state, stepped = step.state.detach().clone(), step.stepped.detach().clone()
    own = replace(step, state=state, forcing=forcing, stepped=stepped)
    alone = replace(probing, executor=None)  # an executor does not pickle
    tasks = ((alone, rows.clone(), directions.clone()) for rows, directions in calls)
    yield from by_workers(probing.executor, step.solver, own, _answered, tasks)


def _answered(step: Step, probing: Probing, rows: Rows, directions: Tensor) -> Responses:
    moved = directions.to_dense().view(-1, *step.point.shape[1:])
    return differences(step, rows, moved, probing.mu, probing.scheme)


def failed(responses: Responses) -> Bool[Tensor, " probes"]:
    """Which probes have a response that is not finite."""
    if math.isfinite(float(responses.detach().sum())):
        return torch.zeros(len(responses), dtype=torch.bool, device=responses.device)
    return ~responses.flatten(1).isfinite().all(dim=1)


def without_failed(responses: Responses) -> Responses:
    """Zero instead of the responses of probes that failed."""
    lost = failed(responses)
    return responses.masked_fill(per_row(lost, responses), 0.0) if lost.any() else responses


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """(rows,) -> (rows, 1, ...): one number for every row of another tensor."""
    return values.view(-1, *[1] * (like.dim() - 1))


class Pullback(Protocol):
    """Gets the vector-Jacobian product of a solver step from further steps."""

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """J^T v for every state of the batch, J = d S / d(step.variable) at the step.

        Args:
            step: The step that was taken.
            cotangent: (batch, channel, *space), v, the loss's gradient at `step.stepped`.

        Returns:
            Of the shape of `step.point`.
        """


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
    def grid(self) -> Domain:
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
    grid = getattr(solver, "grid", None)  # nothing outside of its mask has a gradient
    state, forcing = filled(grid, state), filled(grid, forcing)
    stepped: Tensor = _Stepped.apply(state, forcing, solver, pullback)  # type: ignore[no-untyped-call]
    return filled(grid, stepped)


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
        grid = getattr(solver, "grid", None)
        stepped = solver.step(spread(grid, state), spread(grid, forcing)).clone()  # a node's own
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
