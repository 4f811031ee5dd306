"""Local solvers: entries too far apart to meet share a probe, and the products are checked."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import final

import torch
from torch import Generator, Tensor

from zopde.contracts import Domain, State, counted_apart
from zopde.errors import InputError
from zopde.files import write_text
from zopde.interface.chosen import by_variable
from zopde.interface.colours import in_fluid
from zopde.interface.directions import DensePullback
from zopde.interface.near import near_of
from zopde.interface.reach import measure_reach
from zopde.interface.vjp import (
    Call,
    Due,
    Probing,
    Pullback,
    Scale,
    Step,
    Variable,
    Varied,
    failed,
    per_row,
    responses,
    varied_shape,
    without_failed,
)
from zopde.interface.watch import OFF, OTHER_STEPS, at_other_steps, directional
from zopde.validate import check_not_negative, checked
from zopde.zo.cge import Scheme

_DIRECTIONS = 3  # of a check
STEPS_OF_A_CHECK = 2 * (_DIRECTIONS + len(OTHER_STEPS))
_DEARER = 100  # times the price of a product, at which the dense way still answers


@final
class ColouredPullback:
    """Measures J^T v for a local solver by one probe per colour and channel.

        (J^T v)_j = sum over the cells i of the box around j of v_i [S(x + h d) - S(x)]_i / h

    where h is mu times the scale of j's channel, and d is 1 at every entry of that channel and of
    j's colour, of which j is the only one whose response reaches into the box (Curtis, Powell and
    Reid 1974, for products instead of matrices). The same numbers as `DensePullback` where the
    radius holds; what reaches beyond it is lost or goes to the wrong entry. So some of the first
    products (1, 2, 4, 8), and then one of every `check_every`, are compared with the solver, see
    `checked`.

    Cells outside of the grid's mask are not moved, and a colour of such cells alone is left out.

    Queries: colours * channels solver steps per state and step (`probes_for`), twice as
    many with the central scheme, however fine the grid; a check takes ten of one state, which a
    `Tally` counts apart, as "checking". No randomness but the check's, the same every time. The
    entries of a probe that failed get zero.

    Args:
        grid: The solver's grid; its boundary decides what is near.
        radius: Cells along each axis that the response to one cell may reach, or, on a mesh,
            (neighbours,); see `measure_radius` and `coloured_for`.
        mu: As in `Probing`, like `scheme`, `states` and `scale`.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        bias: What is known of the share of the response outside the radius; a check allows it.
        scale: (channel,), what `mu` is in units of; None measures it.
        check_every: Products from one check to the next; 0 for none.
        executor: As in `Probing`.

    Attributes:
        measured: How the radius was measured, where it was.
        lost: Whether a probe of the latest checked product failed, which then compares nothing.
        error: By how much of its size a checked product was off at most, as it was returned.

    Raises:
        InputError: If a setting is out of range.
    """

    @checked
    def __init__(
        self,
        grid: Domain,
        radius: tuple[int, ...],
        mu: float = 1e-3,
        scheme: Scheme = "forward",
        states: int = 512,
        bias: float = 0.0,
        scale: Scale = None,
        check_every: int = 10,
        executor: Executor | None = None,
    ) -> None:
        self._probing, self._grid = Probing(mu, scheme, states, executor, scale), grid
        self.bias = bias
        check_not_negative("check_every", check_every)
        self._every, self._products, self.measured = check_every, 0, ""
        self._before = 0  # products since the last comparison
        self._near, self._draws = near_of(grid), torch.Generator().manual_seed(0)
        self._in_vain = False
        self.lost, self.error = False, 0.0
        self._dense: DensePullback | None = None
        self.widen(radius)

    def probes_for(self, variable: Variable = "state") -> int:
        """Solver steps per state and step, for the channels of an input."""
        return self._probing.steps * self.colours * varied_shape(self._grid, variable)[0]

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`; a check that finds something warns, and says what was not compared."""
        due = self._products in Due(self._every)
        self._products += 1
        self._before += 1
        if not due:
            return self.unchecked(step, cotangent)
        product, text = self.checked(step, cotangent, self._draws)
        if text:
            missed = f"; the {self._before - 1} products before were not compared"
            warnings.warn(text + missed * (self._before > 1), stacklevel=2)
        self._before *= self.lost
        return product

    def widen(self, radius: tuple[int, ...]) -> None:
        """Take another radius from now on; () answers like `DensePullback`."""
        p = self._probing
        self.radius = radius
        if not radius:
            self._dense = DensePullback(p.mu, p.scheme, p.states, p.scale, p.executor)
            self.colours = self._grid.fluid_cells
            return
        self._colour = in_fluid(self._near.colours(radius), self._grid.fluid)
        self.colours = int(self._colour.max()) + 1

    def unchecked(self, step: Step, cotangent: State) -> Varied:
        """The product by the radius as it is."""
        if self._dense is not None:
            return self._dense(step, cotangent)
        point, probing = step.point, self._probing
        colour, channels = self._colour.to(point.device), point.shape[1]
        units = probing.units(step)
        lines = point.new_zeros(len(point) * channels, *point.shape[2:])  # a channel of a state
        probes = probing.calls(len(lines) * self.colours, point)

        def of(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """The channels of a state that probes move, by how much, and the colours' cells."""
            line = numbers // self.colours
            cells = (colour == per_row(numbers % self.colours, point[:1, 0])).to(point)
            return line, units[line // channels, line % channels], cells

        def calls() -> Iterator[Call]:
            for line, unit, mask in map(of, probes):
                directions = point.new_zeros(len(line), *point.shape[1:])
                each = torch.arange(len(line), device=line.device)
                directions[each, line % channels] = mask * unit
                yield line // channels, directions

        for numbers, found in zip(probes, responses(step, calls(), probing), strict=True):
            line, unit, mask = of(numbers)
            self.lost = self.lost or bool(failed(found).any())  # then zeros stand for them
            weighted = (without_failed(found) * cotangent[line // channels]).sum(dim=1)
            lines.index_add_(0, line, mask * self._near.sums(weighted, self.radius) / unit)
        return lines.view_as(point)

    def checked(self, step: Step, cotangent: State, generator: Generator) -> tuple[Varied, str]:
        """The product, compared with the solver's own derivative along random directions.

        Where they differ beyond noise, the reach is measured anew at these states. If that radius
        agrees, or else the dense way, it answers from now on, this product included. Where they
        agree, the finite-difference step is compared with others, see `at_other_steps`.

        Returns:
            The product, and what there is to say: "" where they agree.
        """
        self.lost = False
        product = self.unchecked(step, cotangent)
        if self._dense is not None or self._in_vain or self.lost:
            return product, ""
        drawn = [directional(step, cotangent, self._probing, generator) for _ in range(_DIRECTIONS)]
        row, off_of = max(drawn, key=lambda found: found[1](product[found[0]]))
        off, allowed = off_of(product[row]), OFF + 4 * self.bias
        if off <= allowed:
            error, text = at_other_steps(step, cotangent, product, self._probing, generator)
            self.error = max(self.error, error)
            return product, text if error > allowed else ""
        text = f"coloured, radius {self.radius}: a product with respect to the {step.variable} is "
        text += f"off by {off:.1%} of its size along a random direction: "
        single, v, p = step.at(row), cotangent[row][None], self._probing
        with counted_apart():
            reach = measure_reach(step, mu=p.mu, scale=p.scale).radius()
            wider = tuple(map(max, self.radius, reach))
            dear = self._grid.fluid_cells > _DEARER * self.colours
            for radius in [wider] * (wider != self.radius) + [()] * (not dear):
                like = self._grid, radius, p.mu, p.scheme, p.states, 0.0, p.scale, 0, p.executor
                other = ColouredPullback(*like)
                if off_of(other(single, v)[0]) <= allowed:
                    break
            else:
                self._in_vain, self.error = True, max(self.error, off)
                text += "no wider radius helps; check mu and noise (zopde check solver)"
                return product, f"{text}, or take the bank"
        self.widen(radius)
        text += f"radius {radius} from now on" if radius else "dense from now on"
        return self.unchecked(step, cotangent), text


@final
class CheckedAt:
    """Gives the coloured pullbacks of every iteration, and checks a product now and then.

    A function of the iteration, for an exact resume: what a check widened after the point from
    which a run is resumed is forgotten, and found again.

    Args:
        pullbacks: One for each input, which check nothing themselves.
        draws: Iteration -> the source of a check's directions.
        every: Iterations from one check to the next; 0 for none.
        path: Where it is kept what was widened, and when; None for memory.
        say: Told what a check finds.
    """

    def __init__(
        self,
        pullbacks: Mapping[Variable, ColouredPullback],
        draws: Callable[[int], Generator],
        every: int,
        path: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self._pullbacks, self._draws, self._every, self._say = pullbacks, draws, every, say
        self._path, self._started = path, False
        self._unchecked = by_variable(dict(pullbacks))
        self._compared: dict[Variable, int] = {}  # the iteration of each input's last comparison
        self._widened: list[tuple[int, Variable, tuple[int, ...]]] = []

    def __call__(self, iteration: int) -> Pullback:
        """The pullback of one iteration."""
        if not self._started and self._path is not None and self._path.exists():
            self._restore(self._path, iteration)
        self._started = True
        if not self._every or iteration % self._every:
            return self._unchecked
        due, draws = set(self._pullbacks), self._draws(iteration)

        def product(step: Step, cotangent: State) -> Varied:
            variable, pullback = step.variable, self._pullbacks[step.variable]
            if variable not in due:
                return pullback.unchecked(step, cotangent)
            due.remove(variable)
            before = pullback.radius
            found, text = pullback.checked(step, cotangent, draws)
            last = max(-1, self._compared.get(variable, iteration - self._every))
            if text:
                missed = f"; iterations {last + 1} to {iteration - 1} were not compared"
                self._say(f"iteration {iteration}: {text}{missed * (last + 1 < iteration)}")
            if not pullback.lost:
                self._compared[variable] = iteration
            if pullback.radius != before and self._path is not None:
                self._widened.append((iteration, variable, pullback.radius))
                write_text(self._path, json.dumps(self._widened))
            return found

        return product

    def _restore(self, path: Path, below: int) -> None:
        """Widen again what was widened before an iteration."""
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            self._widened = [row for row in rows if row[0] < below]
            for _, variable, radius in self._widened:
                self._pullbacks[variable].widen(tuple(radius))
        except (ValueError, TypeError, LookupError, InputError) as error:
            got, expected = "another file, or half of it", "what a run of zopde wrote"
            remedy = "restore it, or start over with --overwrite"
            raise InputError(str(path), got=got, expected=expected, remedy=remedy) from error


def coloured_for(
    step: Step,
    radius: tuple[int, ...] | None = None,
    allow_bias: bool = False,
    mu: float = 1e-3,
    scheme: Scheme = "forward",
    states: int = 512,
    probes: int = 32,
    scale: Scale = None,
    check_every: int = 10,
    executor: Executor | None = None,
) -> ColouredPullback:
    """Make a `ColouredPullback` for a solver, its radius measured, or measured against.

    Args:
        step: A step at typical states; its solver takes the steps of `measure_reach`.
        radius: The declared radius; None takes what is measured.
        allow_bias: Accept a radius that the response leaves; `bias` of the result says by what
            share of its size.
        mu: As in `Probing`, like `scheme`, `states` and `scale`; of the measurement, too.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        probes: Single entries to change in the measurement.
        scale: (channel,), what `mu` is in units of; None measures it.
        check_every: As in `ColouredPullback`.
        executor: As in `Probing`, for the products.

    Raises:
        InputError: If the step reaches beyond `radius`, or so far that colours save less than
            half of the probes of `DensePullback`, and no bias is allowed.
    """
    reach, grid = measure_reach(step, probes, mu, scale), step.solver.grid
    measured = reach.radius()
    chosen = measured if radius is None else radius
    bias = reach.bias(chosen)
    how = mu, scheme, states, bias, scale, check_every, executor
    coloured = ColouredPullback(grid, chosen, *how)
    ways = f"at {probes} single cells, then at all cells by {reach.combs} combs"
    coloured.measured = f"measured {ways}"
    if allow_bias:
        return coloured
    if any(m > c for m, c in zip(measured, chosen, strict=True)):
        lost = f"{100 * bias:.2g} % of the response outside"
        got = f"{chosen} with a step that reaches {measured} cells ({lost})"
        remedy = "declare that, use bank, or accept the bias (allow_bias)"
        raise InputError("radius", got=got, expected="at least the measured radius", remedy=remedy)
    cells = grid.fluid_cells
    if 2 * coloured.colours > cells:
        got = f"a step that reaches {measured} of {grid.shape} cells: {coloured.colours} colours"
        expected = f"at most {cells // 2}, half of the cells"
        remedy = "use dense or bank, or a radius with the bias accepted (allow_bias)"
        raise InputError("coloured interface", got=got, expected=expected, remedy=remedy)
    return coloured
