"""What one gradient asks the solver for, cut by cut, so that a user can choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch

from zopde.blackbox import CountedSolver
from zopde.contracts import State
from zopde.errors import InputError, first_line
from zopde.interface import Step
from zopde.interface.vjp import Variable
from zopde.progress import Progress
from zopde.studies.correct.bank import forms_of_bank, steps_of_bank
from zopde.studies.correct.cut import Interface, coloured_of, variables
from zopde.studies.correct.labels import WAYS
from zopde.studies.correct.measure import cost_per_iteration, median_seconds
from zopde.studies.correct.problem import Problem, new_corrector
from zopde.studies.correct.scoring import stand_in_ratios
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.correct.train import label_stage
from zopde.studies.workers import side_by_side
from zopde.training import Fitted, ZerothOrder

_SLOW = 0.05  # seconds of a step of one state, from which on no larger batch is timed


@dataclass(frozen=True)
class CutForecast:
    """What a gradient by one cut asks.

    Args:
        cut: Its name.
        setup_steps: Solver steps once, before; None where the cut will not do.
        setup_seconds: Their time, by as many workers as the run has.
        steps: Solver steps of a gradient, those of the forward pass included.
        seconds: Time of a gradient.
        note: What there is to know, such as a radius, or why the cut will not do.
    """

    cut: str
    setup_steps: int | None
    setup_seconds: float | None
    steps: int | None
    seconds: float | None
    note: str = ""


@final
class _Free:
    """Answers nothing, and counts what it is asked for.

    Attributes:
        products: States by variable.
        calls: Products of whole batches.
    """

    def __init__(self) -> None:
        self.products: dict[Variable, int] = {"state": 0, "forcing": 0}
        self.calls = 0

    def __call__(self, step: Step, cotangent: State) -> State:  # noqa: ARG002
        self.products[step.variable] += len(step.point)
        self.calls += 1
        return torch.zeros_like(step.point)


@dataclass(frozen=True)
class _Base:
    """A gradient without what is asked in its backward pass."""

    steps: int
    seconds: float
    products: dict[Variable, int]
    calls: int
    a_step: float


def forecast_cuts(
    config: CorrectionConfig, problem: Problem, watcher: Progress
) -> list[CutForecast]:
    """Count and time a gradient of every cut, with the settings of a run.

    The weight cut is measured from a few probes. The interface cuts take a gradient whose
    backward pass asks nothing, and as many solver steps as they add, of which one is timed in a
    batch. Nothing is asked for what will not do: its row says why.

    Args:
        config: The run's settings.
        problem: Solver and data, or what stands in for them.
        watcher: Who is watching.
    """
    with watcher.stage("measuring every cut", 3) as advance:
        found = [_weights(config, problem)]
        advance(1, "weights")
        base = _base(config, problem)
        advance(1, "interface")
        for ask in (_dense, _coloured, _amortised, _random):
            name = f"interface, {ask.__name__.strip('_')}"
            try:
                found.append(replace(ask(config, problem, base), cut=name))
            except InputError as error:
                found.append(CutForecast(name, None, None, None, None, first_line(error)))
        advance(1, "")
    return found


def amortised_seconds(config: CorrectionConfig, problem: Problem) -> float:
    """Time of a gradient with as many Jacobians as the run's bank, none of which is measured."""
    return _amortised(config, problem, _base(config, problem)).seconds or 0.0


def _weights(config: CorrectionConfig, problem: Problem) -> CutForecast:
    network = new_corrector(config, problem, 0)
    ratios = stand_in_ratios(config, network)
    stage = label_stage(config, problem, WAYS["ZO-weights"], network, 0, ratios)
    seconds, queries = cost_per_iteration(config, stage, network)
    before = stage.counter.steps
    with torch.no_grad():
        stage.objective_at(0)(network, 1)
    assert isinstance(stage.gradient, ZerothOrder)
    note = f"{stage.gradient.masks.active:,} weights at sparsity {config.zo.sparsity:g}"
    return CutForecast("weights", 0, 0.0, queries * (stage.counter.steps - before), seconds, note)


def _base(config: CorrectionConfig, problem: Problem) -> _Base:
    network, free = new_corrector(config, problem, 0), _Free()
    way = WAYS["ZO-interface"]
    nothing = Interface(lambda _: free, Fitted(0, 0, 0, 0.0), "")
    stage = label_stage(config, problem, way, network, 0, interface=nothing)
    objective = stage.objective_at(0)
    stage.gradient(network, objective, 0)
    steps, products, calls = stage.counter.steps, dict(free.products), free.calls
    seconds = median_seconds(lambda: stage.gradient(network, objective, 0))
    return _Base(steps, seconds, products, calls, _seconds_of_a_step(config, problem))


def _seconds_of_a_step(config: CorrectionConfig, problem: Problem) -> float:
    """Of one state, in as large a batch as the probes'."""
    data = problem.train

    def stepping(count: int) -> Callable[[], object]:
        rows = torch.arange(count) % data.simulations
        forcing = None if data.forcing is None else data.forcing[rows, -1]
        return lambda: problem.solver.step(data.states[rows, -1], forcing)

    one = median_seconds(stepping(1))
    if one > _SLOW:
        return one
    return median_seconds(stepping(config.interface.states)) / config.interface.states


def _asking(
    base: _Base, probes: dict[Variable, int], setup: int = 0, note: str = ""
) -> CutForecast:
    """A cut that asks `probes` solver steps for each product."""
    asked = sum(count * probes.get(variable, 0) for variable, count in base.products.items())
    seconds = base.seconds + asked * base.a_step
    return CutForecast("", setup, setup * base.a_step, base.steps + asked, seconds, note)


def _scheme(config: CorrectionConfig) -> int:
    return 2 if config.interface.scheme == "central" else 1


def _dense(config: CorrectionConfig, problem: Problem, base: _Base) -> CutForecast:
    grid, factor = problem.solver.grid, _scheme(config)
    entries = torch.Size(grid.state_shape).numel(), torch.Size(grid.forcing_shape).numel()
    return _asking(base, {"state": factor * entries[0], "forcing": factor * entries[1]})


def _coloured(config: CorrectionConfig, problem: Problem, base: _Base) -> CutForecast:
    counter = CountedSolver(problem.solver)
    found = coloured_of(config, problem, counter, 0)
    probes: dict[Variable, int] = {v: one.probes_for(v) for v, one in found.items()}
    note = ", ".join(f"radius {' x '.join(map(str, one.radius))} cells" for one in found.values())
    bias = max(one.bias for one in found.values())
    if bias:
        note += f", {100 * bias:.2g} % of a response outside"
    return _asking(base, probes, counter.steps, note)


def _random(config: CorrectionConfig, problem: Problem, base: _Base) -> CutForecast:  # noqa: ARG001
    probes = _scheme(config) * config.interface.directions
    note = f"{config.interface.directions} directions; noise grows with training.unroll"
    return _asking(base, {"state": probes, "forcing": probes}, note=note)


def _amortised(config: CorrectionConfig, problem: Problem, base: _Base) -> CutForecast:
    table, batch = config.interface, config.training.batch
    inputs = variables(config)
    forms = forms_of_bank(config, problem, inputs)
    nearest = table.lookup == "nearest"
    used = min(batch, table.snapshots) if nearest else table.snapshots
    rows = max(1, batch // used) if nearest else batch
    outputs = problem.train.states[:1, 0].flatten(1).expand(rows, -1)
    looking = 0.0
    for form in forms.values():
        jacobian = form.open(torch.zeros(form.size))
        looking += used * median_seconds(lambda j=jacobian: j.pull(outputs))  # type: ignore[misc]
    setup = steps_of_bank(config, problem, inputs)
    gib = 4 * table.snapshots * sum(form.size for form in forms.values()) / 2**30
    return CutForecast(
        "",
        setup,
        setup * base.a_step / side_by_side(config),
        base.steps,
        base.seconds + base.calls / len(inputs) * looking,
        f"{table.snapshots} Jacobians, {gib:.2g} GiB, lookup {table.lookup}",
    )
