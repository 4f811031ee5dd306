"""What a correction will cost, and what one gradient costs by every cut, from a measured sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import torch
from torch import nn

from zopde.blackbox import CountedSolver
from zopde.contracts import Objective, ReferenceSolver, State
from zopde.interface import Probing, Variable, always
from zopde.interface.vjp import entries_of
from zopde.oracle import WeightOracle
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.sparsity import LayerRatios, layer_ratios, random_scores
from zopde.studies.correct.counted import (
    BareGradient,
    CutPrice,
    bare_gradient,
    fit_and_product,
    price_of_weights,
    prices_of_interface,
    queries_of_cut,
)
from zopde.studies.correct.cut import Interface, coloured_of, corrected, open_interface
from zopde.studies.correct.cuts import InterfaceCut
from zopde.studies.correct.emulator import (
    iterations_of_fits,
    seconds_of_iteration,
    unfitted_products,
)
from zopde.studies.correct.evaluate import evaluate
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.problem import Opened, Problem
from zopde.studies.correct.quality import forward_steps, rating_of
from zopde.studies.correct.reference import Reference
from zopde.studies.correct.train import (
    Stage,
    label_stage,
    looks_of,
    measured_chunk,
    score_layers,
    start_stage,
    with_chunk,
)
from zopde.studies.correct.ways import decided
from zopde.studies.price import Price, comparisons
from zopde.studies.run import Place
from zopde.studies.scores import queries_of
from zopde.tangent.price import as_dear, unfitted
from zopde.timing import median_seconds
from zopde.training import EnsembleKalman, EvolutionStrategy, Fitted, ZerothOrder
from zopde.zo import cge

_SAMPLE_PROBES = 32
_SAMPLE_MEMBERS = 14  # and the network itself: one pass
_SAMPLE_SECONDS = 2.0  # fewer probes where they take longer, two at least
_SAMPLE_DIRECTIONS = 32
_SLOW = 0.05  # seconds of a step of one state, from which on no larger batch is timed


def begin_sample(opened: Opened, progress: Progress) -> Opened:
    """Measure what all labels share: a rollout, and how many probes share a pass."""
    problem = opened.problem
    what = problem.told(problem.solver), problem.test, None
    seconds = median_seconds(lambda: evaluate(*what, every=problem.every))
    opened = replace(opened, rollout_seconds=seconds / problem.test.steps * opened.rollout_steps)
    opened = decided(opened, progress)
    return opened if opened.weights.chunk else with_chunk(opened, measured_chunk(opened, progress))


def price(opened: Opened, name: str, place: Place) -> Price:  # noqa: ARG001
    """What one label will cost, for all seeds together, or "data"; nothing is trained."""
    if name == "data":
        assert opened.to_make is not None
        return _price_of_data(opened.to_make, opened.problem.train.states)
    label, seeds, last = LABELS[name], len(opened.seeds), opened.rollout_seconds
    if not label.trained:
        return Price(name, 0, 0, last)
    network = opened.new_network(0)
    interface, once, steps_once = sample_interface(opened, name)
    ratios = stand_in_ratios(opened, network)
    stage = label_stage(opened, label, network, 0, ratios, interface=interface)
    seconds, queries, checking = _seconds_and_queries(opened, stage, network)
    if name in opened.cuts and opened.cuts[name].way == "bank":  # the sample's holds but one
        gradient = _measured_gradient(opened)
        seconds = gradient.seconds + _lookup_seconds(opened, opened.cuts[name], gradient)
    iterations = stage.schedule.iterations
    checking *= comparisons(iterations)
    if interface:
        compared = steps_compared(interface, opened.cuts[name], iterations)
        checking = interface.cost.checking + compared
    seconds, all_queries = seconds * iterations, queries * iterations
    if opened.needs_scores(label):
        scoring = queries_of(opened.weights.score, opened.weights.score_directions)
        seconds += _scoring_seconds(opened, network, scoring)
        all_queries += scoring
    a_query = steps_per_query(stage, network) if label.unrolled else 0
    solver_steps = all_queries * a_query
    checking += round(looks_of(opened, name) * a_query)
    rating = rating_of(opened, name)
    if isinstance(stage.gradient, ZerothOrder | EvolutionStrategy):  # counted in evaluations
        checking += rating.cost(1, queries)
    elif rating.looks:
        checking += rating.cost(forward_steps(opened), queries * a_query)
    if opened.starts_from_non(name):
        start = start_stage(opened, 0)
        extra = start.schedule.iterations
        seconds += _seconds_and_queries(opened, start, network)[0] * extra
        iterations, all_queries = iterations + extra, all_queries + extra
    validating = steps_validating(opened, stage.schedule.iterations)
    if validating:
        seconds += validating * _seconds_of_a_step(opened.problem, opened.looked_at)
    return Price(
        name,
        iterations * seeds,
        all_queries * seeds,
        (seconds + once + last) * seeds,
        (solver_steps + steps_once) * seeds,
        checking=checking * seeds,
        validating=validating * seeds,
    )


def steps_validating(opened: Opened, iterations: int) -> int:
    """Solver steps of the looks at the validation: before, after, and between."""
    looks = 1 + -(-iterations // opened.validate_every)
    return looks * opened.looked_at * opened.training.unroll * opened.problem.every


def _price_of_data(to_make: Reference, like: State) -> Price:
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


def _seconds_and_queries(
    opened: Opened, stage: Stage, network: nn.Module
) -> tuple[float, int, int]:
    """Of one gradient, from as few probes as tell; and queries that verify them, each time."""
    objective = stage.objective_at(0)
    if isinstance(stage.gradient, EnsembleKalman):
        return _ensemble_seconds(stage.gradient, objective, network)
    if isinstance(stage.gradient, EvolutionStrategy):
        with opened.workers.measured_here():
            seconds, queries, checking = _ensemble_seconds(stage.gradient, objective, network)
        return seconds / opened.workers.side_by_side, queries, checking
    if not isinstance(stage.gradient, ZerothOrder):
        asked = list[int]()  # by each of the calls that are timed
        took = median_seconds(lambda: asked.append(stage.gradient(network, objective, 0).queries))
        return took, asked[-1], 0
    cut, workers, active = opened.weights, opened.workers, stage.gradient.masks.active
    chunk = workers.probes_per_pass(cut.chunk, active)
    oracle = WeightOracle(network, objective, chunk)
    order = torch.randperm(oracle.num_coordinates, generator=generator(0, "mask"))
    with workers.measured_here():
        base = median_seconds(oracle.base)
        probes = min(active, chunk, _SAMPLE_PROBES, max(2, int(_SAMPLE_SECONDS / base)))
        indices = order[:probes]
        cge(oracle, indices, cut.mu, cut.scheme)
        checking = oracle.checked.total()

        def gradient() -> None:
            oracle.at(2)  # at the third gradient nothing is verified
            cge(oracle, indices, cut.mu, cut.scheme)

        probing = median_seconds(gradient)
    if cut.sides == 1:
        probing -= base
    seconds = base + probing * active / probes / workers.side_by_side
    return seconds, queries_of_cut(cut, active), checking


def _ensemble_seconds(
    source: EnsembleKalman | EvolutionStrategy, objective: Objective, network: nn.Module
) -> tuple[float, int, int]:
    """The same of an ensemble, from few of its members; each pass costs alike."""
    few = replace(source, members=min(source.members, _SAMPLE_MEMBERS))
    if isinstance(few, EnsembleKalman):
        few.build(network)
    checking = sum(few(network, objective, 0).checked.values())
    # At the third iteration nothing is verified
    seconds = median_seconds(lambda: few(network, objective, 2))
    queries = source.members + 1
    return seconds * queries / (few.members + 1), queries, checking


def sample_interface(opened: Opened, name: str) -> tuple[Interface | None, float, int]:
    """An interface as the run's will be, and (seconds, solver steps) of getting ready.

    Of a bank one Jacobian is measured, and of a tangent nothing: its fit is timed on random
    numbers, and its solver steps are the most that it may take; the fits of an emulator are timed
    on the stored states. What a watch adds cannot be known.
    """
    if name not in opened.cuts:
        return None, 0.0, 0
    return _sample_of(opened, opened.cuts[name])


def _sample_of(opened: Opened, cut: InterfaceCut) -> tuple[Interface, float, int]:
    """The same of a cut."""
    whole, problem = 1, opened.problem
    if cut.way == "random" and cut.around != "identity":
        base, seconds, steps = _sample_of(opened, replace(cut, way=cut.around))
        return corrected(cut, problem, 0, base=base), seconds, steps
    if cut.way == "tangent":
        like, inputs = problem.train.states, problem.variables
        fit, _ = fit_and_product(cut, problem.solver, inputs, like)
        products = as_dear(unfitted(problem.solver.grid, inputs, cut.width, like), inputs)
        measuring = cut.budget * _seconds_of_a_step(problem, cut.states)
        seconds = fit + measuring / opened.workers.side_by_side
        look, free = 2 * cut.sides * len(inputs), Fitted(0, 0, 0, 0.0)
        return Interface(always(products), free, "", of_a_look=look), seconds, cut.budget
    if cut.way == "emulator":
        counter, settings = CountedSolver(problem.solver), opened.emulator
        products = unfitted_products(problem, settings, cut.mu, counter)
        iterations = iterations_of_fits(settings, opened.training.iterations)
        seconds = iterations * seconds_of_iteration(problem, settings, cut.mu)
        look, free = 2 * cut.sides * len(problem.variables), Fitted(0, 0, 0, 0.0)
        return Interface(always(products), free, "", of_a_look=look), seconds, counter.steps
    if cut.way == "bank":
        whole, cut = cut.snapshots, replace(cut, snapshots=1, more_snapshots=0, watch_every=0)
    interface = open_interface(cut, problem, 0, opened.training.unroll)
    return interface, interface.cost.seconds * whole, interface.cost.solver_steps * whole


def steps_compared(interface: Interface, cut: InterfaceCut, iterations: int) -> int:
    """Solver steps that compare products while training, if none is found to be off."""
    return -(-iterations // cut.watch_every) * interface.of_a_look if cut.watch_every else 0


def steps_per_query(stage: Stage, network: nn.Module) -> int:
    """Solver steps of a query: of its unroll, and of a backward pass that asks the solver."""
    before = stage.counter.steps
    if isinstance(stage.gradient, ZerothOrder | EnsembleKalman | EvolutionStrategy):
        with torch.no_grad():
            stage.objective_at(0)(network, 1)
    else:
        queries = stage.gradient(network, stage.objective_at(0), 0).queries
        return (stage.counter.steps - before) // queries
    return stage.counter.steps - before


def stand_in_ratios(opened: Opened, network: nn.Module) -> LayerRatios | None:
    """Other layers than the score's, but as many active weights, at no cost."""
    if opened.weights.score == "none":
        return None
    scores = random_scores(network, generator(0, "scores"))
    return layer_ratios(network, scores, opened.weights.sparsity)


def _scoring_seconds(opened: Opened, network: nn.Module, queries: int) -> float:
    """Time of scoring the layers, from as few directions as tell."""
    few = min(opened.weights.score_directions, _SAMPLE_DIRECTIONS)
    with opened.workers.measured_here():
        seconds = median_seconds(lambda: score_layers(opened, network, 0, few))
    sampled = max(1, queries_of(opened.weights.score, few))
    return seconds * queries / sampled / opened.workers.side_by_side


def price_cuts(opened: Opened, progress: Progress) -> list[CutPrice]:
    """Count and time a gradient of every cut.

    The weight cut is measured from a few probes. The interface cuts take a gradient whose
    backward pass makes no solver step, and as many solver steps as they add, of which one is
    timed in a batch. Nothing is measured of what will not do: its row says why.
    """
    cut, problem = opened.interface, opened.problem
    with progress.stage("measuring every cut", 3) as advance:
        gradient = _measured_gradient(opened)
        advance(1, "a gradient")
        prices = [_measured_weights(opened, gradient)]
        advance(1, "weights")
        coloured, workers = cache(partial(measured_coloured, opened)), opened.workers.side_by_side
        what = cut, problem.solver, gradient, coloured, workers, problem.train.states
        for row in prices_of_interface(*what):
            if row.cut == "interface, bank" and row.seconds is not None:
                lookups = _lookup_seconds(opened, cut, gradient)
                prices.append(replace(row, seconds=row.seconds + lookups))
            else:
                prices.append(row)
        advance(1, "interface")
    return prices


def _measured_weights(opened: Opened, gradient: BareGradient) -> CutPrice:
    network = opened.new_network(0)
    stage = label_stage(opened, LABELS["ZO-weights"], network, 0, stand_in_ratios(opened, network))
    assert isinstance(stage.gradient, ZerothOrder)
    counted = price_of_weights(opened.weights, stage.gradient.masks.active, gradient)
    return replace(counted, seconds=_seconds_and_queries(opened, stage, network)[0])


def _measured_gradient(opened: Opened) -> BareGradient:
    network, problem, training = opened.new_network(0), opened.problem, opened.training
    no_step = always(lambda step, _: torch.zeros_like(step.point))  # products take none
    free = Interface(no_step, Fitted(0, 0, 0, 0.0), "")
    stage = label_stage(opened, LABELS["ZO-interface"], network, 0, interface=free)
    objective = stage.objective_at(0)
    seconds = median_seconds(lambda: stage.gradient(network, objective, 0))
    batch = training.windows(problem, 0).batch(0).batch
    a_step = _seconds_of_a_step(problem, opened.interface.states)
    return replace(
        bare_gradient(problem.injection, training.unroll, batch, a_step, problem.every),
        seconds=seconds,
    )


def _seconds_of_a_step(problem: Problem, states: int) -> float:
    """Of one state, in as large a batch as the probes'."""

    def stepping(count: int) -> Callable[[], object]:
        rows = problem.answered[torch.arange(count) % len(problem.answered)]
        asked = problem.stored_steps(problem.solver, rows)
        return lambda: problem.solver.step(asked.state, asked.forcing)

    alone = median_seconds(stepping(1))
    states = Probing(states=states).per_call(problem.train.states[0, 0].numel())
    return alone if alone > _SLOW else median_seconds(stepping(states)) / states


def measured_coloured(opened: Opened) -> tuple[dict[Variable, int], int, str]:
    """Solver steps of a product by input, solver steps once, and a note, of the coloured way."""
    counter = CountedSolver(opened.problem.solver)
    coloured = coloured_of(opened.interface, opened.problem, counter, 0)
    radii = (" x ".join(map(str, pullback.radius)) for pullback in coloured.values())
    note = ", ".join(f"radius {radius} cells" for radius in radii)
    if bias := max(pullback.bias for pullback in coloured.values()):
        note += f", {100 * bias:.2g} % of a response outside"
    return {v: pullback.probes_for(v) for v, pullback in coloured.items()}, counter.steps, note


def _lookup_seconds(opened: Opened, cut: InterfaceCut, gradient: BareGradient) -> float:
    """Time of a gradient's products with the Jacobians of a bank."""
    problem, batch, nearest = opened.problem, opened.training.batch, cut.lookup == "nearest"
    used = min(batch, cut.snapshots) if nearest else cut.snapshots
    rows = max(1, batch // used) if nearest else batch
    outputs = problem.train.states[:1, 0].flatten(1).expand(rows, -1)
    seconds = 0.0
    for variable in problem.variables:
        inputs = entries_of(problem.solver.grid, [variable])
        product = partial(
            torch.matmul, outputs, torch.zeros(inputs, outputs.shape[1]).to(outputs).T
        )
        seconds += gradient.products[variable] / batch * used * median_seconds(product)
    return seconds
