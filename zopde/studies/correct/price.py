"""What a correction will cost, and what one gradient costs by every cut, from a measured sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import torch
from torch import nn

from zopde.blackbox import CountedSolver
from zopde.contracts import ReferenceSolver, State
from zopde.errors import InputError, first_line
from zopde.interface import Step
from zopde.interface.vjp import Variable
from zopde.oracle import WeightOracle
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.sparsity import LayerRatios, layer_ratios, random_scores
from zopde.studies.correct.bank import forms_of_bank, steps_of_bank
from zopde.studies.correct.cut import Interface, coloured_of, open_interface, products
from zopde.studies.correct.cuts import InterfaceCut, small_bank
from zopde.studies.correct.evaluate import evaluate
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.problem import Opened, Problem
from zopde.studies.correct.reference import Reference
from zopde.studies.correct.train import (
    Stage,
    label_stage,
    measured_chunk,
    score_layers,
    start_stage,
    with_chunk,
)
from zopde.studies.price import Price
from zopde.studies.run import Place
from zopde.studies.scores import queries_of
from zopde.timing import median_seconds
from zopde.training import Fitted, ZerothOrder
from zopde.zo import cge

_SAMPLE_PROBES = 32
_SAMPLE_DIRECTIONS = 32
_SLOW = 0.05  # seconds of a step of one state, from which on no larger batch is timed


def begin_sample(opened: Opened, progress: Progress) -> Opened:
    """Measure what all labels share: a rollout, and how many probes share a pass."""
    problem = opened.problem
    seconds = median_seconds(lambda: evaluate(problem.solver, problem.test, None, _nobody))
    opened = replace(opened, rollout_seconds=seconds / problem.test.steps * opened.rollout_steps)
    if opened.weights.chunk:
        return opened
    chunk = measured_chunk(opened)
    progress.note(f"{chunk} probes per pass, measured; zo.chunk={chunk} repeats it")
    return with_chunk(opened, chunk)


def _price_data(to_make: Reference, like: State) -> Price:
    solver = to_make.solver
    assert isinstance(solver, ReferenceSolver)
    fine, simulations = solver.at(to_make.fine), to_make.train + to_make.test
    steps = to_make.skip + to_make.steps
    scenario = fine.scenario(simulations, generator(to_make.seed, "data"))
    state = scenario.initial.to(like)
    forcing = scenario.forcing(0).to(state) if scenario.forcing else None

    def step() -> None:
        if scenario.forcing:
            scenario.forcing(0)
        fine.step(state, forcing)

    return Price("data", 0, 0, median_seconds(step) * steps, simulations * steps)


def price(opened: Opened, name: str, place: Place) -> Price:  # noqa: ARG001
    """What one label will cost, for all seeds together, or "data"; nothing is trained."""
    if name == "data":
        assert opened.to_make is not None
        return _price_data(opened.to_make, opened.problem.train.states)
    label, seeds, last = LABELS[name], len(opened.seeds), opened.rollout_seconds
    if not label.trained:
        return Price(name, 0, 0, last)
    network = opened.new_network(0)
    interface, once, steps_once = _sample_interface(opened, name)
    ratios = _stand_in_ratios(opened, network)
    stage = label_stage(opened, label, network, 0, ratios, interface=interface)
    seconds, queries = cost_per_iteration(opened, stage, network)
    if name in opened.cuts and opened.cuts[name].way == "bank":  # the sample's holds but one
        seconds = _bank(opened.cuts[name], opened, _base(opened)).seconds or 0.0
    iterations = stage.schedule.iterations
    seconds, all_queries = seconds * iterations, queries * iterations
    if opened.needs_scores(label):
        scoring = queries_of(opened.weights.score, opened.weights.score_directions)
        seconds += _scoring_seconds(opened, network, scoring)
        all_queries += scoring
    solver_steps = all_queries * (_steps_per_query(stage, network) if label.unrolled else 0)
    seconds, solver_steps = seconds + once, solver_steps + steps_once
    if opened.starts_from_non(name):
        start = start_stage(opened, 0)
        extra = start.schedule.iterations
        seconds += cost_per_iteration(opened, start, network)[0] * extra
        iterations, all_queries = iterations + extra, all_queries + extra
    return Price(
        name,
        iterations * seeds,
        all_queries * seeds,
        (seconds + last) * seeds,
        solver_steps * seeds,
    )


def _nobody(steps: int = 1, text: str = "") -> None:
    """Nobody is watching."""


def cost_per_iteration(opened: Opened, stage: Stage, network: nn.Module) -> tuple[float, int]:
    """(seconds, queries) of one gradient, from as few probes as tell."""
    objective = stage.objective_at(0)
    if not isinstance(stage.gradient, ZerothOrder):
        return median_seconds(lambda: stage.gradient(network, objective, 0)), 1
    cut, workers, active = opened.weights, opened.workers, stage.gradient.masks.active
    chunk = workers.probes_per_pass(cut.chunk, active)
    oracle = WeightOracle(network, objective, chunk)
    probes = min(active, chunk, _SAMPLE_PROBES)
    indices = torch.randperm(oracle.num_coordinates, generator=generator(0, "mask"))[:probes]
    with workers.measured_here():
        base = median_seconds(oracle.base)
        probing = median_seconds(lambda: cge(oracle, indices, cut.mu, cut.scheme))
    if cut.sides == 1:
        probing -= base
    seconds = base + probing * active / probes / workers.side_by_side
    return seconds, active * cut.sides + (2 - cut.sides)


def _sample_interface(opened: Opened, name: str) -> tuple[Interface | None, float, int]:
    """An interface as the run's will be, and (seconds, solver steps) of getting ready.

    Of a bank one Jacobian is measured. What its watch adds cannot be known.
    """
    if name not in opened.cuts:
        return None, 0.0, 0
    cut, problem = opened.cuts[name], opened.problem
    if cut.way != "bank":
        interface = open_interface(cut, problem, 0)
        return interface, interface.cost.seconds, interface.cost.solver_steps
    interface = open_interface(small_bank(cut), problem, 0)
    seconds, steps = interface.cost.seconds, interface.cost.solver_steps
    watched = 0
    if cut.watch_every:
        iterations, unroll = opened.training.iterations, opened.training.unroll
        watched = -(-iterations // cut.watch_every) * products(problem, unroll)
    more = watched * seconds / steps
    return interface, seconds * cut.snapshots + more, steps * cut.snapshots + watched


def _steps_per_query(stage: Stage, network: nn.Module) -> int:
    """Solver steps of a query: of its unroll, and of a backward pass that asks the solver."""
    before = stage.counter.steps
    if isinstance(stage.gradient, ZerothOrder):
        with torch.no_grad():
            stage.objective_at(0)(network, 1)
    else:
        stage.gradient(network, stage.objective_at(0), 0)
    return stage.counter.steps - before


def _stand_in_ratios(opened: Opened, network: nn.Module) -> LayerRatios | None:
    """Other layers than the score's, but as many active weights, at no cost."""
    if opened.weights.score == "none":
        return None
    return layer_ratios(
        network, random_scores(network, generator(0, "scores")), opened.weights.sparsity
    )


def _scoring_seconds(opened: Opened, network: nn.Module, queries: int) -> float:
    """Time of scoring the layers, from as few directions as tell."""
    few = min(opened.weights.score_directions, _SAMPLE_DIRECTIONS)
    with opened.workers.measured_here():
        seconds = median_seconds(lambda: score_layers(opened, network, 0, few))
    sampled = max(1, queries_of(opened.weights.score, few))
    return seconds * queries / sampled / opened.workers.side_by_side


@dataclass(frozen=True)
class CutPrice:
    """What a gradient by one cut takes."""

    cut: str  # its name
    setup_steps: int | None  # solver steps once, before; None where the cut will not do
    setup_seconds: float | None  # their time, by as many workers as the run has
    steps: int | None  # solver steps of a gradient, those of the forward pass included
    seconds: float | None  # time of a gradient
    note: str = ""  # what there is to know, such as a radius, or why the cut will not do


def price_cuts(opened: Opened, progress: Progress) -> list[CutPrice]:
    """Count and time a gradient of every cut.

    The weight cut is measured from a few probes. The interface cuts take a gradient whose
    backward pass makes no solver step, and as many solver steps as they add, of which one is
    timed in a batch. Nothing is measured of what will not do: its row says why.

    Args:
        opened: The planned run.
        progress: Who is watching.
    """
    with progress.stage("measuring every cut", 3) as advance:
        prices = [_weights(opened)]
        advance(1, "weights")
        base = _base(opened)
        advance(1, "interface")
        for way in (_dense, _coloured, _bank, _random):
            name = f"interface, {way.__name__.strip('_')}"
            try:
                prices.append(replace(way(opened.interface, opened, base), cut=name))
            except InputError as error:
                prices.append(CutPrice(name, None, None, None, None, first_line(error)))
        advance(1, "")
    return prices


@final
class _Free:
    """A pullback that makes no solver step, and counts what is wanted of it.

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
    """A gradient without the solver steps of its backward pass."""

    steps: int
    seconds: float
    products: dict[Variable, int]
    calls: int
    a_step: float


def _weights(opened: Opened) -> CutPrice:
    network = opened.new_network(0)
    ratios = _stand_in_ratios(opened, network)
    stage = label_stage(opened, LABELS["ZO-weights"], network, 0, ratios)
    seconds, queries = cost_per_iteration(opened, stage, network)
    steps = queries * _steps_per_query(stage, network)
    assert isinstance(stage.gradient, ZerothOrder)
    note = f"{stage.gradient.masks.active:,} weights at sparsity {opened.weights.sparsity:g}"
    return CutPrice("weights", 0, 0.0, steps, seconds, note)


def _base(opened: Opened) -> _Base:
    network, free = opened.new_network(0), _Free()
    nothing = Interface(lambda _: free, Fitted(0, 0, 0, 0.0), "")
    stage = label_stage(opened, LABELS["ZO-interface"], network, 0, interface=nothing)
    objective = stage.objective_at(0)
    stage.gradient(network, objective, 0)
    steps, products_wanted, calls = stage.counter.steps, dict(free.products), free.calls
    seconds = median_seconds(lambda: stage.gradient(network, objective, 0))
    a_step = _seconds_of_a_step(opened.problem, opened.interface.states)
    return _Base(steps, seconds, products_wanted, calls, a_step)


def _seconds_of_a_step(problem: Problem, states: int) -> float:
    """Of one state, in as large a batch as the probes'."""
    data = problem.train

    def stepping(count: int) -> Callable[[], object]:
        rows = torch.arange(count) % data.simulations
        forcing = None if data.forcing is None else data.forcing[rows, -1]
        return lambda: problem.solver.step(data.states[rows, -1], forcing)

    alone = median_seconds(stepping(1))
    return alone if alone > _SLOW else median_seconds(stepping(states)) / states


def _with_probes(
    base: _Base, probes: dict[Variable, int], setup: int = 0, note: str = ""
) -> CutPrice:
    """A cut that makes `probes` solver steps for each product."""
    steps = sum(count * probes.get(variable, 0) for variable, count in base.products.items())
    seconds = base.seconds + steps * base.a_step
    return CutPrice("", setup, setup * base.a_step, base.steps + steps, seconds, note)


def _dense(cut: InterfaceCut, opened: Opened, base: _Base) -> CutPrice:
    grid = opened.problem.solver.grid
    entries = torch.Size(grid.state_shape).numel(), torch.Size(grid.forcing_shape).numel()
    return _with_probes(base, {"state": cut.sides * entries[0], "forcing": cut.sides * entries[1]})


def _coloured(cut: InterfaceCut, opened: Opened, base: _Base) -> CutPrice:
    counter = CountedSolver(opened.problem.solver)
    coloured = coloured_of(cut, opened.problem, counter, 0)
    probes: dict[Variable, int] = {v: one.probes_for(v) for v, one in coloured.items()}
    radii = (" x ".join(map(str, one.radius)) for one in coloured.values())
    note = ", ".join(f"radius {radius} cells" for radius in radii)
    bias = max(one.bias for one in coloured.values())
    if bias:
        note += f", {100 * bias:.2g} % of a response outside"
    return _with_probes(base, probes, counter.steps, note)


def _random(cut: InterfaceCut, opened: Opened, base: _Base) -> CutPrice:  # noqa: ARG001
    probes = cut.sides * cut.directions
    note = f"{cut.directions} directions; noise grows with training.unroll"
    return _with_probes(base, {"state": probes, "forcing": probes}, note=note)


def _bank(cut: InterfaceCut, opened: Opened, base: _Base) -> CutPrice:
    problem, batch = opened.problem, opened.training.batch
    forms = forms_of_bank(cut, problem)
    used = min(batch, cut.snapshots) if cut.lookup == "nearest" else cut.snapshots
    rows = max(1, batch // used) if cut.lookup == "nearest" else batch
    outputs = problem.train.states[:1, 0].flatten(1).expand(rows, -1)
    looking = 0.0
    for form in forms.values():
        product = partial(form.pull, torch.zeros(form.size), outputs)
        looking += used * median_seconds(product)
    setup = steps_of_bank(cut, problem)
    gib = 4 * cut.snapshots * sum(form.size for form in forms.values()) / 2**30
    return CutPrice(
        "",
        setup,
        setup * base.a_step / opened.workers.side_by_side,
        base.steps,
        base.seconds + base.calls / len(problem.variables) * looking,
        f"{cut.snapshots} Jacobians, {gib:.2g} GiB, lookup {cut.lookup}",
    )
