"""Local solvers: entries whose responses cannot overlap share a probe."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import State
from zopde.errors import InputError
from zopde.grid import Grid
from zopde.interface.colouring import lattice_colours
from zopde.interface.reach import TOLERANCE, measure_reach
from zopde.interface.vjp import (
    Step,
    Variable,
    Varied,
    check_probing,
    differences,
    probes_per_call,
    without_failed,
)
from zopde.zo.cge import Scheme


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
        mu: Finite-difference step, in the units of the varied input; > 0.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        bias: What is known of the share of the response outside the radius; only kept.

    Raises:
        InputError: If a setting is out of range.
    """

    def __init__(
        self,
        grid: Grid,
        radius: tuple[int, ...],
        mu: float = 1e-3,
        scheme: Scheme = "forward",
        states: int = 512,
        bias: float = 0.0,
    ) -> None:
        check_probing(mu, scheme, states)
        self._mu, self._scheme, self._states = mu, scheme, states
        self._grid, self.radius, self.bias = grid, radius, bias
        colours = lattice_colours(grid.shape, radius, grid.boundary == "periodic")
        self.colours = int(colours.max()) + 1
        every = torch.arange(self.colours).view(-1, *[1] * colours.dim())
        self._masks = colours == every

    def probes_for(self, variable: Variable = "state") -> int:
        """Solver steps per state and step, for the channels of an input."""
        channels = self._grid.channels if variable == "state" else self._grid.forcing_channels
        return (2 if self._scheme == "central" else 1) * self.colours * len(channels)

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        point = step.point
        masks, channels = self._masks.to(point), point.shape[1]
        lines = point.new_zeros(len(point) * channels, *point.shape[2:])  # a channel of a state
        chunk = probes_per_call(self._states, self._scheme)
        for first in range(0, len(lines) * self.colours, chunk):
            last = min(first + chunk, len(lines) * self.colours)
            probes = torch.arange(first, last, device=point.device)
            line, mask = probes // self.colours, masks[probes % self.colours]
            rows = line // channels
            directions = point.new_zeros(len(probes), *point.shape[1:])
            directions[probes - first, line % channels] = mask
            responses = differences(step, rows, directions, self._mu, self._scheme)
            weighted = (without_failed(responses) * cotangent[rows]).sum(dim=1)
            lines.index_add_(0, line, mask * self._box_sums(weighted))
        return lines.view_as(point)

    def _box_sums(self, values: Float[Tensor, "probes ..."]) -> Float[Tensor, "probes ..."]:
        """Sum over the box of the radius around every cell."""
        for axis, (n, r) in enumerate(zip(self._grid.shape, self.radius, strict=True), start=1):
            if self._grid.boundary == "periodic":
                if 2 * r + 1 >= n:
                    values = values.sum(dim=axis, keepdim=True).expand_as(values)
                    continue
                ends = values.narrow(axis, n - r, r), values.narrow(axis, 0, r)
            else:
                nothing = torch.zeros_like(values.narrow(axis, 0, 1))
                ends = (nothing.repeat_interleave(r, axis),) * 2
            wide = torch.cat([ends[0], values, ends[1]], dim=axis)
            values = wide.unfold(axis, 2 * r + 1, 1).sum(dim=-1)
        return values


def coloured_for(
    step: Step,
    radius: tuple[int, ...] | None = None,
    allow_bias: bool = False,
    mu: float = 1e-3,
    scheme: Scheme = "forward",
    states: int = 512,
    tolerance: float = TOLERANCE,
    probes: int = 32,
) -> ColouredPullback:
    """A `ColouredPullback` for a solver, its radius measured, or measured against.

    Args:
        step: A step at typical states; its solver takes `probes` more.
        radius: The declared radius; None takes what is measured.
        allow_bias: Accept a radius that the response leaves; `bias` of the result says by what
            share of its size.
        mu: Finite-difference step, of the measurement too; in the units of the varied input.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        tolerance: Share of a squared response that may lie outside; see `Reach.radius`.
        probes: Entries to change in the measurement.

    Raises:
        InputError: If the step reaches beyond `radius`, or so far that colours save less than
            half of the probes of `DensePullback`, and no bias is allowed.
    """
    reach, grid = measure_reach(step, probes, mu), step.solver.grid
    measured = reach.radius(tolerance)
    chosen = measured if radius is None else radius
    coloured = ColouredPullback(grid, chosen, mu, scheme, states, reach.bias(chosen))
    beyond = any(m > c for m, c in zip(measured, chosen, strict=True))
    if beyond and not allow_bias:
        raise InputError(
            "radius",
            got=f"{chosen} with a step that reaches {measured} cells "
            f"({100 * coloured.bias:.2g} % of the response outside)",
            expected="at least the measured radius",
            remedy="declare that, use bank, or accept the bias (allow_bias)",
        )
    cells = step.state[0, 0].numel()
    if 2 * coloured.colours > cells and not allow_bias:
        raise InputError(
            "coloured interface",
            got=f"a step that reaches {measured} of {grid.shape} cells: {coloured.colours} colours",
            expected=f"at most {cells // 2}, half of the cells",
            remedy="use dense or bank, or a radius with the bias accepted (allow_bias)",
        )
    return coloured
