"""A minute's look at a solver, before anyone trains through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zopde.blackbox import BlackBox
from zopde.contracts import Domain, Solver, seeded
from zopde.errors import InputError
from zopde.hybrid import INJECTIONS, Injection
from zopde.interface import ColouredPullback, Variable
from zopde.nets import Normalised
from zopde.oracle.coordinates import Coordinates
from zopde.progress import Progress, Silent
from zopde.seeding import generator, noise_seeds
from zopde.sparsity import RandomMasks
from zopde.studies.correct.check.differences import (
    check_reach,
    check_state_mu,
    check_weight_mu,
    draw_zeros,
    stand_in_objective,
)
from zopde.studies.correct.check.points import (
    Point,
    check_batch,
    check_contract,
    check_digits,
    check_habits,
    check_nan,
    check_state,
    check_time,
)
from zopde.studies.correct.check.states import States, typical_states
from zopde.studies.correct.counted import (
    CutPrice,
    bare_gradient,
    price_of_weights,
    prices_of_interface,
)
from zopde.studies.correct.cut import REACH_PROBES
from zopde.studies.correct.cuts import InterfaceCut, WeightCut
from zopde.studies.correct.open import open_solver, reference_of
from zopde.studies.correct.settings import CorrectionConfig
from zopde.validate import check_positive

_BATCH = 16


@dataclass(frozen=True)
class SolverCheck:
    """What a check of a solver found."""

    solver: str  # its spec
    states: str  # where the states come from
    points: tuple[Point, ...]  # one line each
    # One gradient of every cut; empty where the contract is broken. Counted as in a dry run; of the
    # times only that of the solver steps
    costs: tuple[CutPrice, ...]
    assumed: str  # network, unroll and batch of these gradients

    @property
    def passed(self) -> bool:
        """Whether no point failed."""
        return all(point.verdict != "fail" for point in self.points)

    def as_dict(self) -> dict[str, Any]:
        """Plain values only."""
        return {"passed": self.passed, **asdict(self)}


def check_solver(
    config: CorrectionConfig, amplitude: float = 1.0, progress: Progress | None = None
) -> SolverCheck:
    """Check a solver: the contract, its precision, its speed, its price; nothing is written.

    At most about 900 solver steps in single precision and 1,300 in double, most of them for the
    two recommended mu; a third of that where a step takes a second. The combs of `measure_reach`
    come on top, and with `corrector.every` more for the mu of the weights.

    Args:
        config: The run that is planned: of it the solver, the data file, the corrector and the
            settings of both cuts count.
        amplitude: Of the states, for a solver that has neither data nor a scenario.
        progress: Who is watching.

    Raises:
        InputError: On settings or data that will not do.
    """
    check_positive("amplitude", amplitude)
    config = replace(config, corrector=config.corrector.alone())  # no solver is told
    solver, spec = open_solver(config), config.solver.spec
    config.corrector.check_on(solver.grid, config.dtype, config.run.seeds[0])
    reference, from_file = reference_of(config, solver, Path()), bool(config.data.path)
    positive = config.corrector.inject == "parameter"
    states = typical_states(reference, from_file, amplitude, positive)
    zo, cut, injection = config.zo, config.interface, INJECTIONS[config.corrector.inject]
    every = config.corrector.every
    guard = replace(config.run, store="", apart=False, failure_limit=1.0).guarded
    grid, training = solver.grid, config.training
    scale = states.state.new_full((len(grid.channels),), states.scale)
    forcing_scale = scale.new_ones(len(grid.forcing_channels))
    network = config.corrector.network(grid, scale, forcing_scale, forcing_scale, 0)
    points: dict[str, Point] = {}
    with (progress or Silent()).stage("checking the solver", 11) as advance:
        for point in _points(zo, cut, guard, solver, states, injection, every, network):
            points[point.name] = point
            advance(1, point.name)
    if "reach" not in points:
        return SolverCheck(spec, states.source, tuple(points.values()), (), "")
    weights = Coordinates(network).total
    seconds = points["time"].values["in_batch"]
    gradient = bare_gradient(injection, training.unroll, training.batch, seconds, every)
    active, workers = RandomMasks(weights, zo.sparsity, 1, 0).active, config.run.probed_by()
    coloured = partial(_coloured, cut, grid, points["reach"], list(gradient.products))
    what = cut, solver, gradient, coloured, workers.side_by_side, states.state
    costs = price_of_weights(zo, active, gradient), *prices_of_interface(*what)
    assumed = f"{weights:,} weights, {config.window} steps, {training.batch} windows"
    return SolverCheck(spec, states.source, tuple(points.values()), costs, assumed)


def _points(
    zo: WeightCut,
    cut: InterfaceCut,
    guard: Callable[[Solver], Solver],
    solver: Solver,
    states: States,
    injection: Injection,
    every: int,
    network: Normalised,
) -> Iterator[Point]:
    contract, states, answer = check_contract(solver, states, guard)
    yield contract
    if answer is None:
        return
    box = guard(solver)
    # Chance first: a random solver is not one with a memory, or one that mixes states.
    repeats, memory = check_habits(box, states)
    yield repeats
    yield memory
    # What a seed can repeat is looked at with one: as a gradient would.
    frozen = seeded(box, noise_seeds(0, 0, 1)[0])
    if memory.verdict == "pass":
        yield check_batch(frozen, states)
    speed = check_time(box, states, _BATCH)
    yield speed
    yield check_nan(BlackBox(solver), states, speed.values["alone"])
    yield check_digits(answer)
    depends = check_state(box, states, answer)
    yield depends
    if "fail" in (memory.verdict, depends.verdict):
        return  # differences would tell of it alone
    seconds = speed.values["in_batch"]
    state_mu = check_state_mu(cut, frozen, states, seconds)
    yield state_mu
    draw_zeros(network, generator(0, "weights"))
    objective = stand_in_objective(box, states, injection, every)
    yield check_weight_mu(zo, network, objective, every * seconds)
    best = state_mu.values.get("recommended_mu", math.nan)
    if math.isfinite(best):
        yield check_reach(frozen, states, best, injection)


def _coloured(
    cut: InterfaceCut, grid: Domain, reach: Point, inputs: list[Variable]
) -> tuple[dict[Variable, int], int, str]:
    """What a coloured product takes, by the radius that is set or the one that was measured."""
    probes: dict[Variable, int] = {}
    for variable, name in zip(inputs, ("radius", "radius_of_forcing"), strict=False):
        measured: tuple[int, ...] = tuple(reach.values[name])
        radius = (tuple(cut.radius) if variable == "state" else ()) or measured
        coloured = ColouredPullback(grid, radius, cut.mu, cut.scheme)
        beyond = any(far > near for far, near in zip(measured, radius, strict=True))
        if (beyond or 2 * coloured.colours > grid.fluid_cells) and not cut.allow_bias:
            expected = "a step that reaches less far"
            raise InputError("coloured interface", got=reach.found, expected=expected)
        probes[variable] = coloured.probes_for(variable)
    return probes, REACH_PROBES * len(inputs), reach.found
