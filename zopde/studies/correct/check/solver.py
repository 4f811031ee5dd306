"""A minute's look at a solver, before anyone trains through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zopde.blackbox import BlackBox
from zopde.contracts import Solver, seeded
from zopde.oracle.coordinates import Coordinates
from zopde.progress import Progress, Silent
from zopde.seeding import noise_seeds
from zopde.studies.correct.check.mu import check_state_mu, check_weight_mu, stand_in
from zopde.studies.correct.check.points import (
    Point,
    check_batch,
    check_contract,
    check_digits,
    check_nan,
    check_repeats,
    check_time,
)
from zopde.studies.correct.check.reach import Cost, check_reach, costs
from zopde.studies.correct.check.states import States, typical_states
from zopde.studies.correct.cuts import InterfaceCut
from zopde.studies.correct.open import open_solver, reference_of
from zopde.studies.correct.settings import CorrectionConfig

_BATCH = 16


@dataclass(frozen=True)
class SolverCheck:
    """What a check of a solver found.

    Args:
        solver: Its spec.
        states: Where the states come from.
        points: One line each.
        costs: One gradient of every cut; empty where the contract is broken.
        assumed: Network, unroll and batch of these gradients.
    """

    solver: str
    states: str
    points: tuple[Point, ...]
    costs: tuple[Cost, ...]
    assumed: str

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
    two recommended mu; a third of that where a step takes a second.

    Args:
        config: The run that is planned: of it the solver, the data file, the corrector and the
            settings of both cuts count.
        amplitude: Of the states, for a solver that has neither data nor a scenario.
        progress: Who is watching.

    Raises:
        InputError: On settings or data that will not do.
    """
    solver = open_solver(config)
    reference = reference_of(config, solver, Path())
    states = typical_states(reference, config.data.path, amplitude)
    corrector, training = config.corrector, config.training
    watcher, points = progress or Silent(), list[Point]()
    stand_in_once = cache(
        lambda: stand_in(corrector.kind, corrector.sizes, BlackBox(solver), states)
    )

    def weight_mu(seconds: float) -> Point:
        return check_weight_mu(config.zo, *stand_in_once(), seconds)

    with watcher.stage("checking the solver", 9) as advance:
        for point in _points(config.interface, solver, states, weight_mu):
            points.append(point)
            advance(1, point.name)
    named = {point.name: point for point in points}
    if "reach" not in named:
        return SolverCheck(config.solver.spec, states.source, tuple(points), (), "")
    weights = Coordinates(stand_in_once()[0]).total
    seconds, once = named["time"].values["in_batch"], training.batch * (training.unroll - 1)
    entries = states.state[0].numel()
    rows = costs(config.zo, config.interface, once, weights, seconds, named["reach"], entries)
    assumed = f"{weights:,} weights, {training.unroll} steps, {training.batch} windows"
    return SolverCheck(config.solver.spec, states.source, tuple(points), tuple(rows), assumed)


def _points(
    cut: InterfaceCut, solver: Solver, states: States, weight_mu: Callable[[float], Point]
) -> Iterator[Point]:
    contract, answer = check_contract(solver, states)
    yield contract
    if answer is None:
        return
    box = BlackBox(solver)
    # What a seed can repeat is looked at with one: as a gradient would.
    frozen = seeded(box, noise_seeds(0, 0, 1)[0])
    yield check_batch(frozen, states, frozen.step(*states.rows(slice(None))))
    yield check_repeats(solver, states)
    speed = check_time(box, states, _BATCH)
    yield speed
    yield check_nan(box, states, speed.values["alone"])
    yield check_digits(answer)
    seconds = speed.values["in_batch"]
    state_mu = check_state_mu(cut, frozen, states, seconds)
    yield state_mu
    yield weight_mu(seconds)
    best = state_mu.values.get("recommended_mu", math.nan)
    if math.isfinite(best):
        yield check_reach(frozen, states, best)
