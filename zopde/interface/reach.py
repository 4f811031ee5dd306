"""How far a solver's step reaches: where it responds to a change of single cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Forcing, Solver, State, counted_apart
from zopde.errors import SolverError
from zopde.interface.colours import in_fluid
from zopde.interface.near import Near, near_of
from zopde.interface.vjp import Probing, Scale, Step, differences, per_row, without_failed
from zopde.validate import check_count, check_positive, check_share

_TOLERANCE = 1e-6  # of a squared response: what may lie outside a radius
_RING = 2  # cells about the radius in which a comb's response is looked for
_FAR = 0.1  # the larger amplitude of a comb's probes, in units of the scale


@dataclass(frozen=True)
class Reach:
    """Keeps squared responses of some probes, by their distance from the probed cell."""

    # Entry (p, i, j, ...) belongs to cells i, j, ... cells away along each axis, the shorter way
    # round on a periodic grid
    energy: Float[Tensor, "probes ..."]
    combed: tuple[int, ...] = ()  # the radius that combs found; wider by a cell where it varies
    combs: int = 0  # that have shown it

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
        combed = self.combed if tolerance <= _TOLERANCE and self.combed else radii
        return tuple(map(max, radii, combed))

    def bias(self, radius: tuple[int, ...]) -> float:
        """|response outside the box| / |response|, root mean square over the probes."""
        inside = self.energy[(slice(None), *(slice(r + 1) for r in radius))]
        total = float(self.energy.sum())
        return max(0.0, 1 - float(inside.sum()) / total) ** 0.5 if total else 0.0


def measure_reach(step: Step, probes: int = 32, mu: float = 1e-2, scale: Scale = None) -> Reach:
    """Change entries of the varied input, and see where the step responds.

    First single entries of single states; then combs, that is every cell of every state's turn,
    together with others that are too far away to be mistaken for it: at the amplitudes `mu` and
    0.1, both signs, with teeth that move apart until nothing is found beyond the radius.

    Queries: `probes` solver steps, and those of the combs, about (2 radius + 5)^axes for each
    channel, which a `Tally` counts apart, as "checking". Randomness: which entries and signs; the
    same choice every time.

    Args:
        step: A step at typical states, the more the better: what counts is the farthest reach.
        probes: Single entries to change, >= 1.
        mu: By how much, in units of `scale`.
        scale: As in `Probing`.
    """
    check_count("probes", probes)
    check_positive("mu", mu)
    point, probing = step.point, Probing(mu, scale=scale)
    space, channels = point.shape[2:], point.shape[1]
    draw = torch.Generator().manual_seed(0)
    fluid = step.fluid_values(torch.arange(space.numel()).view(1, 1, *space)).flatten()
    cells = fluid[torch.randint(len(fluid), (probes,), generator=draw)].to(point.device)
    near, energy = near_of(step.solver.grid), list[Tensor]()
    for p in probing.calls(probes, point):
        directions = point.new_zeros(len(p), channels, space.numel())
        directions[p - p[0], p % channels, cells[p]] = 1
        rows = (p // channels) % len(point)
        squares = _squares(step, rows, directions.view(len(p), channels, *space), probing)
        energy.append(near.by_distance(squares, cells[p]))
    alone = Reach(torch.cat(energy))
    with counted_apart():
        return _combed(step, near, alone, probing)


def _squares(
    step: Step, rows: Tensor, directions: Tensor, probing: Probing
) -> Float[Tensor, "probes ..."]:
    """Squared responses to directions, both in units of their channels."""
    outputs = Probing(probing.mu).units(replace(step, variable="state"))[rows]
    responses = differences(step, rows, probing.units(step)[rows] * directions, probing.mu)
    return (without_failed(responses) / outputs).double().square().sum(dim=1)


def _combed(step: Step, near: Near, alone: Reach, probing: Probing) -> Reach:
    """What combs add to the reach of single entries; nothing where a step is not local."""
    grid, point, radius = step.solver.grid, step.point, alone.radius()
    channels, draw = point.shape[1], torch.Generator().manual_seed(1)
    larger = max(1.0, _FAR / probing.mu)
    # As long as colours can save half of the probes
    while 2 * near.least_colours(radius) <= prod(grid.shape):
        box, found = tuple(r + _RING for r in radius), list[Tensor]()
        colours = in_fluid(near.colours(box, fewest=False), grid.fluid).to(point.device)
        combs = int(colours.max()) + 1
        for numbers in probing.calls(max(2, channels) * combs, point):
            turn = numbers // combs
            comb = (colours == per_row(numbers % combs, point[:1, 0])).to(point)
            signs = 2 * torch.randint(0, 2, comb.shape, generator=draw).to(point) - 1
            sizes = torch.where((numbers + turn) % 2 == 1, larger, 1.0).to(point)
            directions = point.new_zeros(len(numbers), *point.shape[1:])
            directions[numbers - numbers[0], turn % channels] = comb * signs * per_row(sizes, comb)
            try:
                squares = _squares(step, (numbers + turn) % len(point), directions, probing)
            except SolverError:  # a step too far for the solver tells nothing
                continue
            found.append(near.beyond(squares, comb, _TOLERANCE).cpu())
            if (found[-1].amax(dim=1) > torch.tensor(radius)).any():
                break
        if not found:
            break
        reaches = torch.cat(found, dim=1)
        farthest = tuple(map(max, radius, reaches.amax(dim=1).tolist()))
        if farthest == radius:
            varies = reaches.amax(dim=1) - reaches.amin(dim=1) > 1
            combed = tuple(r + int(more) for r, more in zip(radius, varies, strict=True))
            return Reach(alone.energy, combed, reaches.shape[1])
        radius = farthest
    return Reach(alone.energy, radius)


def measure_radius(
    solver: Solver,
    state: State,
    forcing: Forcing | None = None,
    tolerance: float = _TOLERANCE,
    probes: int = 32,
    mu: float = 1e-2,
) -> tuple[int, ...]:
    """Measure the stencil radius of a solver's step, in cells along each axis.

    Queries: those of `measure_reach`, and one for each state. See `Reach.radius`.

    Args:
        solver: The black box.
        state: (batch, channel, *space), typical states.
        forcing: Their forcing, or None.
        tolerance: Share of a squared response that may lie outside.
        probes: Single entries to change; see `measure_reach`.
        mu: By how much, in standard deviations of each channel.
    """
    step = Step(solver, state, forcing, solver.step(state, forcing))
    return measure_reach(step, probes, mu).radius(tolerance)
