"""How far the response to a change of one cell reaches, measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from zopde.contracts import Forcing, Solver, State
from zopde.grid import Grid
from zopde.interface.vjp import Step, check_probing, differences, without_failed
from zopde.validate import check_count, check_share

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Reach:
    """Squared responses of some probes, by their distance from the probed cell.

    Args:
        energy: (probes, *distance), entry (p, i, j, ...) belongs to cells i, j, ... cells away
            along each axis, the shorter way round on a periodic grid.
    """

    energy: Float[Tensor, "probes ..."]

    def radius(self, tolerance: float = TOLERANCE) -> tuple[int, ...]:
        """The least box that no probe leaves with more than a share of its squared response.

        Args:
            tolerance: That share, along each axis; in [0, 1). 1e-6 ignores a thousandth of the
                response's size, and round-off.
        """
        check_share("tolerance", tolerance)
        radii = []
        for axis in range(1, self.energy.dim()):
            others = [a for a in range(1, self.energy.dim()) if a != axis]
            along = self.energy.sum(dim=others) if others else self.energy
            beyond = along.sum(dim=1, keepdim=True) - along.cumsum(dim=1)
            left = (beyond > tolerance * along.sum(dim=1, keepdim=True)).any(dim=0)
            radii.append(int(left.sum()))  # `beyond` only falls with the distance
        return tuple(radii)

    def bias(self, radius: tuple[int, ...]) -> float:
        """|response outside the box| / |response|, root mean square over the probes."""
        inside = self.energy[(slice(None), *(slice(r + 1) for r in radius))]
        total = float(self.energy.sum())
        return max(0.0, 1 - float(inside.sum()) / total) ** 0.5 if total else 0.0


def measure_reach(
    step: Step, probes: int = 32, mu: float = 1e-2, generator: Generator | None = None
) -> Reach:
    """Change single entries of single states, and see where the step responds.

    Queries: `probes` solver steps. Randomness: which entries, all channels in turn.

    Args:
        step: A step at typical states, the more the better: what counts is the farthest reach.
        probes: Entries to change, >= 1.
        mu: By how much, in the units of the varied input.
        generator: Source of the choice; None for the same choice every time.
    """
    check_count("probes", probes)
    check_probing(mu, "forward", probes)
    point, draw = step.point, generator or torch.Generator().manual_seed(0)
    space, channels = point.shape[2:], point.shape[1]
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
    tolerance: float = TOLERANCE,
    probes: int = 32,
    mu: float = 1e-2,
    generator: Generator | None = None,
) -> tuple[int, ...]:
    """Stencil radius of a solver's step, in cells along each axis; see `Reach.radius`.

    Args:
        solver: The black box.
        state: (batch, channel, *space), typical states.
        forcing: Their forcing, or None.
        tolerance: Share of a squared response that may lie outside.
        probes: Entries to change: as many solver steps, and one for each state.
        mu: By how much, in the units of the state.
        generator: Source of the choice of entries.
    """
    step = Step(solver, state, forcing, solver.step(state, forcing))
    return measure_reach(step, probes, mu, generator).radius(tolerance)


def _by_distance(
    squares: Float[Tensor, "probes ..."], cells: Int[Tensor, " probes"], grid: Grid
) -> Float[Tensor, "probes ..."]:
    """Sum the cells at the same distances, axis by axis."""
    energy, stride = squares, squares[0].numel()
    for axis, n in enumerate(grid.shape, start=1):
        stride //= n
        place = (cells // stride) % n
        distance = (torch.arange(n, device=cells.device) - place[:, None]).abs()
        if grid.boundary == "periodic":
            distance = torch.minimum(distance, n - distance)
        along = energy.movedim(axis, 1)
        index = distance.view(*distance.shape, *[1] * (along.dim() - 2)).expand(along.shape)
        energy = torch.zeros_like(along).scatter_add(1, index, along).movedim(1, axis)
    return energy
