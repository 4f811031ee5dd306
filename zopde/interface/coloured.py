"""Local solvers: how far a step reaches is measured, and entries too far apart share a probe."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from math import gcd, prod
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import Forcing, Solver, State
from zopde.errors import InputError
from zopde.grid import Grid
from zopde.interface.vjp import (
    Probing,
    Step,
    Variable,
    Varied,
    differences,
    per_row,
    varied_shape,
    without_failed,
)
from zopde.validate import check_count, check_positive, check_share, checked
from zopde.zo.cge import Scheme

_TOLERANCE = 1e-6  # of a squared response: what may lie outside a radius


@final
class ColouredPullback:
    """J^T v from one probe per colour and channel.

        (J^T v)_j = sum over the cells i of the box around j of v_i [S(x + mu d) - S(x)]_i / mu

    where d is 1 at every entry of j's channel and colour, of which j is the only one whose
    response reaches into the box (Curtis, Powell and Reid 1974, for products instead of
    matrices). The same numbers as `DensePullback` where the radius holds; what reaches beyond it
    is lost or goes to the wrong entry.

    Queries: colours * channels solver steps per state and step (`probes_for`), twice as
    many with the central scheme, however fine the grid. No randomness. The entries of a probe
    that failed get zero.

    Args:
        grid: The solver's grid; its boundary decides what is near.
        radius: Cells along each axis that the response to one cell may reach; see
            `measure_radius` and `coloured_for`.
        mu: As in `Probing`, like `scheme` and `states`.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        bias: What is known of the share of the response outside the radius; only kept.

    Raises:
        InputError: If a setting is out of range.
    """

    @checked
    def __init__(
        self,
        grid: Grid,
        radius: tuple[int, ...],
        mu: float = 1e-3,
        scheme: Scheme = "forward",
        states: int = 512,
        bias: float = 0.0,
    ) -> None:
        self._probing = Probing(mu, scheme, states)
        self._grid, self.radius, self.bias = grid, radius, bias
        colours = lattice_colours(grid.shape, radius, grid.boundary == "periodic")
        self.colours = int(colours.max()) + 1
        self._masks = colours == per_row(torch.arange(self.colours), colours[None])

    def probes_for(self, variable: Variable = "state") -> int:
        """Solver steps per state and step, for the channels of an input."""
        return self._probing.steps * self.colours * varied_shape(self._grid, variable)[0]

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        point, probing = step.point, self._probing
        masks, channels = self._masks.to(point), point.shape[1]
        lines = point.new_zeros(len(point) * channels, *point.shape[2:])  # a channel of a state
        for probes in probing.calls(len(lines) * self.colours, point):
            line, mask = probes // self.colours, masks[probes % self.colours]
            rows = line // channels
            directions = point.new_zeros(len(probes), *point.shape[1:])
            directions[probes - probes[0], line % channels] = mask
            responses = differences(step, rows, directions, probing.mu, probing.scheme)
            weighted = (without_failed(responses) * cotangent[rows]).sum(dim=1)
            lines.index_add_(0, line, mask * self._box_sums(weighted))
        return lines.view_as(point)

    def _box_sums(self, values: Float[Tensor, "probes ..."]) -> Float[Tensor, "probes ..."]:
        """Sum over the box of the radius around every cell."""
        for axis, (n, r) in enumerate(zip(self._grid.shape, self.radius, strict=True), start=1):
            if self._grid.boundary != "periodic":
                before = after = values.new_zeros(
                    *values.shape[:axis], r, *values.shape[axis + 1 :]
                )
            elif 2 * r + 1 < n:
                before, after = values.narrow(axis, n - r, r), values.narrow(axis, 0, r)
            else:
                values = values.sum(dim=axis, keepdim=True).expand_as(values)
                continue
            wide = torch.cat([before, values, after], dim=axis)
            values = wide.unfold(axis, 2 * r + 1, 1).sum(dim=-1)
        return values


def coloured_for(
    step: Step,
    radius: tuple[int, ...] | None = None,
    allow_bias: bool = False,
    mu: float = 1e-3,
    scheme: Scheme = "forward",
    states: int = 512,
    probes: int = 32,
) -> ColouredPullback:
    """A `ColouredPullback` for a solver, its radius measured, or measured against.

    Args:
        step: A step at typical states; its solver takes `probes` more.
        radius: The declared radius; None takes what is measured.
        allow_bias: Accept a radius that the response leaves; `bias` of the result says by what
            share of its size.
        mu: As in `Probing`, like `scheme` and `states`; of the measurement, too.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        probes: Entries to change in the measurement.

    Raises:
        InputError: If the step reaches beyond `radius`, or so far that colours save less than
            half of the probes of `DensePullback`, and no bias is allowed.
    """
    reach, grid = measure_reach(step, probes, mu), step.solver.grid
    measured = reach.radius()
    chosen = measured if radius is None else radius
    coloured = ColouredPullback(grid, chosen, mu, scheme, states, reach.bias(chosen))
    if allow_bias:
        return coloured
    if any(m > c for m, c in zip(measured, chosen, strict=True)):
        raise InputError(
            "radius",
            got=f"{chosen} with a step that reaches {measured} cells "
            f"({100 * coloured.bias:.2g} % of the response outside)",
            expected="at least the measured radius",
            remedy="declare that, use bank, or accept the bias (allow_bias)",
        )
    cells = prod(grid.shape)
    if 2 * coloured.colours > cells:
        raise InputError(
            "coloured interface",
            got=f"a step that reaches {measured} of {grid.shape} cells: {coloured.colours} colours",
            expected=f"at most {cells // 2}, half of the cells",
            remedy="use dense or bank, or a radius with the bias accepted (allow_bias)",
        )
    return coloured


@dataclass(frozen=True)
class Reach:
    """Squared responses of some probes, by their distance from the probed cell."""

    # Entry (p, i, j, ...) belongs to cells i, j, ... cells away along each axis, the shorter way
    # round on a periodic grid
    energy: Float[Tensor, "probes ..."]

    def radius(self, tolerance: float = _TOLERANCE) -> tuple[int, ...]:
        """The least box that no probe leaves with more than a share of its squared response.

        The share, in [0, 1), is one along each axis; 1e-6 ignores a thousandth of the response's
        size, and round-off.
        """
        check_share("tolerance", tolerance)
        radii = []
        for axis in range(1, self.energy.dim()):
            others = [a for a in range(1, self.energy.dim()) if a != axis]
            along = self.energy.sum(dim=others) if others else self.energy
            whole = along.sum(dim=1, keepdim=True)
            left = (whole - along.cumsum(dim=1) > tolerance * whole).any(dim=0)
            radii.append(int(left.sum()))  # what is left only falls with the distance
        return tuple(radii)

    def bias(self, radius: tuple[int, ...]) -> float:
        """|response outside the box| / |response|, root mean square over the probes."""
        inside = self.energy[(slice(None), *(slice(r + 1) for r in radius))]
        total = float(self.energy.sum())
        return max(0.0, 1 - float(inside.sum()) / total) ** 0.5 if total else 0.0


def measure_reach(step: Step, probes: int = 32, mu: float = 1e-2) -> Reach:
    """Change single entries of single states, and see where the step responds.

    Queries: `probes` solver steps. Randomness: which entries, all channels in turn; the same
    choice every time.

    Args:
        step: A step at typical states, the more the better: what counts is the farthest reach.
        probes: Entries to change, >= 1.
        mu: By how much, in the units of the varied input.
    """
    check_count("probes", probes)
    check_positive("mu", mu)
    point = step.point
    space, channels = point.shape[2:], point.shape[1]
    draw = torch.Generator().manual_seed(0)
    cells = torch.randint(space.numel(), (probes,), generator=draw).to(point.device)
    p = torch.arange(probes, device=point.device)
    directions = point.new_zeros(probes, channels, space.numel())
    directions[p, p % channels, cells] = 1
    rows = (p // channels) % len(point)
    responses = differences(step, rows, directions.view(probes, channels, *space), mu)
    squares = without_failed(responses).double().square().sum(dim=1)
    return Reach(_by_distance(squares, cells, step.solver.grid))


def measure_radius(
    solver: Solver,
    state: State,
    forcing: Forcing | None = None,
    tolerance: float = _TOLERANCE,
    probes: int = 32,
    mu: float = 1e-2,
) -> tuple[int, ...]:
    """Stencil radius of a solver's step, in cells along each axis; see `Reach.radius`.

    Queries: `probes` solver steps, and one for each state.

    Args:
        solver: The black box.
        state: (batch, channel, *space), typical states.
        forcing: Their forcing, or None.
        tolerance: Share of a squared response that may lie outside.
        probes: Entries to change; see `measure_reach`.
        mu: By how much, in the units of the state.
    """
    step = Step(solver, state, forcing, solver.step(state, forcing))
    return measure_reach(step, probes, mu).radius(tolerance)


def _by_distance(
    squares: Float[Tensor, "probes ..."], cells: Int[Tensor, " probes"], grid: Grid
) -> Float[Tensor, "probes ..."]:
    """Sum the cells at the same distances, axis by axis."""
    energy, stride = squares, squares[0].numel()
    for axis, n in enumerate(grid.shape, start=1):
        stride //= n
        probed = (cells // stride) % n
        distance = (torch.arange(n, device=cells.device) - probed[:, None]).abs()
        if grid.boundary == "periodic":
            distance = torch.minimum(distance, n - distance)
        along = energy.movedim(axis, 1)
        index = distance.view(*distance.shape, *[1] * (along.dim() - 2)).expand(along.shape)
        energy = torch.zeros_like(along).scatter_add(1, index, along).movedim(1, axis)
    return energy


def lattice_colours(
    shape: tuple[int, ...], radius: tuple[int, ...], periodic: bool
) -> Int[Tensor, "*space"]:
    """Few colours such that boxes of `radius` around two cells of one colour never overlap.

        colour(x) = (a_1 x_1 + ... + a_n x_n) mod m      with the smallest m that separates, or
        colour(x) = the pair, triple, ... of the colours along each axis      where none is smaller

    Two cells conflict where they are at most 2 radius apart along every axis. On a periodic grid
    the linear form has to close around each axis: m divides a_d n_d. 32 x 32 cells with radius 2
    take 32 colours that way, 36 by the axes alone; 25 is the least that any colouring needs. The
    result has the shape of the grid, and colours 0, 1, ..., each in use.

    Example:
        >>> lattice_colours((6,), (1,), periodic=True).tolist()
        [0, 1, 2, 0, 1, 2]
    """
    for n in shape:
        check_count("cells along an axis", n)
    if len(radius) != len(shape) or any(type(r) is not int or r < 0 for r in radius):
        raise InputError(
            "radius", got=radius, expected=f"{len(shape)} whole numbers >= 0, one for each axis"
        )
    axes = [_along(n, 2 * r + 1, periodic) for n, r in zip(shape, radius, strict=True)]
    counts = [max(colours) + 1 for colours in axes]
    cells = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    factors = _linear(shape, radius, periodic, prod(counts))
    number = torch.zeros(shape, dtype=torch.long)
    if factors:
        *a, m = factors
        for along, factor in zip(cells, a, strict=True):
            number = (number + factor * along) % m
    else:
        for along, colours, count in zip(cells, axes, counts, strict=True):
            number = number * count + torch.tensor(colours)[along]
    in_use: Tensor = torch.unique(number, return_inverse=True)[1]
    return in_use


def _along(n: int, apart: int, periodic: bool) -> list[int]:
    """Colours along one axis; equal ones are at least `apart` cells from each other."""
    if not periodic:
        return [i % apart for i in range(n)]
    arcs = max(1, n // apart)
    ends = [round(k * n / arcs) for k in range(arcs + 1)]
    return [i for first, end in pairwise(ends) for i in range(end - first)]


def _linear(
    shape: tuple[int, ...], radius: tuple[int, ...], periodic: bool, most: int
) -> tuple[int, ...]:
    """(a_1, ..., a_n, m) of a linear colouring with m < most; empty if there is none."""
    near = []  # along each axis, the distances at which two boxes overlap
    for n, r in zip(shape, radius, strict=True):
        width = min(2 * r, n - 1)
        around = [x for x in range(n) if min(x, n - x) <= width]
        near.append(around if periodic else list(range(-width, width + 1)))
    offsets = torch.tensor([o for o in product(*near) if any(o)]).view(-1, len(shape))
    least = prod(min(2 * r + 1, n) for n, r in zip(shape, radius, strict=True))
    for m in range(least, most):
        steps = [m // gcd(m, n) if periodic else 1 for n in shape]
        # The last factor is a unit but for the closing; the others are tried out.
        choices = [torch.arange(0, m, step) for step in steps[:-1]] + [torch.tensor(steps[-1:])]
        factors = torch.cartesian_prod(*choices).view(-1, len(shape))
        separates = ((factors @ offsets.T) % m != 0).all(dim=1)
        if separates.any():
            return (*factors[separates][0].tolist(), m)
    return ()
