"""What a run will ask for and how long it will take, after a measured sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zopde.contracts import ReferenceSolver
from zopde.data import load_trajectories
from zopde.memory import keep_freed_memory
from zopde.progress import Progress, Silent
from zopde.seeding import generator
from zopde.studies.correct.check.states import stand_in_runs
from zopde.studies.correct.cut import Interface, check_interface, open_interface, products
from zopde.studies.correct.cuts import amortised_seconds
from zopde.studies.correct.evaluate import evaluate
from zopde.studies.correct.labels import WAYS, check_labels, injection_note
from zopde.studies.correct.measure import cost_per_iteration, with_chunk
from zopde.studies.correct.problem import (
    Problem,
    check_data,
    check_steps,
    coarse_solver,
    new_corrector,
    problem_from,
    wanted_settings,
)
from zopde.studies.correct.scoring import (
    check_score,
    needs_scores,
    score_layers,
    scoring_queries,
    stand_in_ratios,
)
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.correct.train import Stage, label_stage, start_stage, starts_from_non
from zopde.studies.settings import Span
from zopde.studies.workers import check_workers, side_by_side, threads_of_a_worker
from zopde.timing import median_seconds
from zopde.training import ZerothOrder

_SAMPLE_DIRECTIONS = 32
_STAND_IN_SECONDS = 20.0


@dataclass(frozen=True)
class Forecast:
    """What one label will cost, for all seeds together.

    Args:
        label: Its name; "data" is the reference data, where it has to be made.
        iterations: Updates of the weights.
        queries: Evaluations of the objective.
        solver_steps: Solver steps, in states.
        seconds: Estimated time, rollouts included.
    """

    label: str
    iterations: int
    queries: int
    solver_steps: int
    seconds: float


@dataclass(frozen=True)
class Sample:
    """What costs are measured on.

    Args:
        config: The run that is planned, its chunk chosen.
        problem: Solver and data, or what stands in for the data.
        data: What the data cost, where they have to be made.
    """

    config: CorrectionConfig
    problem: Problem
    data: Forecast | None


def forecast(
    config: CorrectionConfig, path: Path, progress: Progress | None = None
) -> list[Forecast]:
    """Measure a gradient of every label on this machine and scale it up; writes nothing.

    Args:
        config: The run that is planned.
        path: Its data file; where there is none yet, coarse runs stand in.
        progress: Who is watching.

    Returns:
        One `Forecast` per label, after one for the data where they have to be made.
    """
    watcher = progress or Silent()
    return forecast_labels(open_sample(config, path, watcher), watcher)


def open_sample(config: CorrectionConfig, path: Path, watcher: Progress) -> Sample:
    """Load the data, or make something like it; see `forecast`."""
    keep_freed_memory()
    check_labels(config.run.labels)
    # What comes from the store takes no time, and what goes there would be written.
    config = replace(config, run=replace(config.run, store=""))
    if injection_note(config.corrector.inject):
        watcher.note(injection_note(config.corrector.inject))
    solver = coarse_solver(config)
    check_workers(config, solver)
    made = None
    if path.exists() or not isinstance(solver, ReferenceSolver):
        data = load_trajectories(path, solver.grid, wanted_settings(config, solver))
        check_data(config, data)
    else:
        check_steps(config, config.data.steps)
        count, kept = config.training.batch + 1, config.training.unroll + 2
        data = stand_in_runs(config, solver, count, kept, _STAND_IN_SECONDS)
        made = _forecast_data(config, solver)
    small = replace(config, data=replace(config.data, train=data.simulations - 1, test=1))
    problem = problem_from(small, solver, data, Silent())
    check_score(config, problem)
    check_interface(config, problem)
    return Sample(with_chunk(config, problem, watcher), problem, made)


def forecast_labels(sample: Sample, watcher: Progress) -> list[Forecast]:
    """See `forecast`."""
    config, problem = sample.config, sample.problem
    plan = [] if sample.data is None else [sample.data]
    rollout = median_seconds(lambda: evaluate(problem, None, lambda *_: None)) / problem.test.steps
    with watcher.stage("measuring a sample", len(config.run.labels)) as advance:
        for label in config.run.labels:
            if not (WAYS[label].twin and problem.twin is None):
                plan.append(_forecast_label(config, problem, label, rollout))
            advance(1, label)
    return plan


def _forecast_data(config: CorrectionConfig, solver: ReferenceSolver) -> Forecast:
    count, steps = config.data.train + config.data.test, config.data.skip + config.data.steps
    fine = solver.at(config.data.fine)
    scenario = fine.scenario(count, generator(config.data.seed, "data"))
    state = scenario.initial.to(config.run.device, config.dtype)
    forcing = scenario.forcing(0).to(state) if scenario.forcing else None

    def step() -> None:
        if scenario.forcing:
            scenario.forcing(0)
        fine.step(state, forcing)

    return Forecast("data", 0, 0, count * steps, median_seconds(step) * steps)


def _forecast_label(
    config: CorrectionConfig, sample: Problem, label: str, rollout: float
) -> Forecast:
    way, seeds = WAYS[label], len(config.run.seeds)
    last = rollout * config.data.steps
    if way.gradient == "none":
        return Forecast(label, 0, 0, 0, last)
    network = new_corrector(config, sample, 0)
    config = _in_iterations(config)
    interface, extra = _open_interface(config, sample) if way.interface else (None, (0.0, 0))
    ratios = stand_in_ratios(config, network)
    stage = label_stage(config, sample, way, network, 0, ratios, interface=interface)
    seconds, queries = cost_per_iteration(config, stage, network)
    if way.interface and config.interface.kind == "amortised":  # the sample's bank holds but one
        seconds = amortised_seconds(config, sample)
    seconds, all_queries = seconds * stage.iterations, queries * stage.iterations
    if needs_scores(config, way):
        seconds += _scoring_seconds(config, sample, network)
        all_queries += scoring_queries(config)
    solver_steps = all_queries * (_steps_per_query(stage, network) if way.unrolled else 0)
    seconds, solver_steps = seconds + extra[0], solver_steps + extra[1]
    iterations = stage.iterations
    if starts_from_non(config, label):
        start = start_stage(config, sample, 0)
        seconds += cost_per_iteration(config, start, network)[0] * start.iterations
        iterations, all_queries = iterations + start.iterations, all_queries + start.iterations
    return Forecast(
        label,
        iterations * seeds,
        all_queries * seeds,
        solver_steps * seeds,
        (seconds + last) * seeds,
    )


def _open_interface(
    config: CorrectionConfig, sample: Problem
) -> tuple[Interface, tuple[float, int]]:
    """An interface that asks as the run's will, and (seconds, solver steps) of getting ready.

    Of a bank one Jacobian is measured. What its watch adds cannot be known.
    """
    table, training = config.interface, config.training
    if table.kind != "amortised":
        interface = open_interface(config, sample, 0)
        return interface, (interface.cost.seconds, interface.cost.solver_steps)
    one = replace(table, snapshots=1, more_snapshots=0, watch_every=0)
    interface = open_interface(replace(config, interface=one), sample, 0)
    seconds, steps = interface.cost.seconds, interface.cost.solver_steps
    watched = 0
    if table.watch_every:
        iterations = Span.parse("training.length", training.length).count
        watched = -(-iterations // table.watch_every) * products(config)
    more = watched * seconds / steps, watched
    return interface, (seconds * table.snapshots + more[0], steps * table.snapshots + more[1])


def _steps_per_query(stage: Stage, network: torch.nn.Module) -> int:
    """Solver steps of a query: of its unroll, and of a backward pass that asks the solver."""
    before = stage.counter.steps
    if isinstance(stage.gradient, ZerothOrder):
        with torch.no_grad():
            stage.objective_at(0)(network, 1)
    else:
        stage.gradient(network, stage.objective_at(0), 0)
    return stage.counter.steps - before


def _scoring_seconds(config: CorrectionConfig, sample: Problem, network: torch.nn.Module) -> float:
    """Time of scoring the layers, from as few directions as tell."""
    few = min(config.zo.score_directions, _SAMPLE_DIRECTIONS)
    less = replace(config, zo=replace(config.zo, score_directions=few))
    with threads_of_a_worker(config):
        seconds = median_seconds(lambda: score_layers(less, sample, network, 0))
    return seconds * scoring_queries(config) / max(1, scoring_queries(less)) / side_by_side(config)


def _in_iterations(config: CorrectionConfig) -> CorrectionConfig:
    """The same lengths without epochs, which must count the real data and not the sample."""
    data, training = config.data, config.training

    def fixed(text: str, unroll: int, batch: int) -> str:
        windows = data.train * (data.steps - unroll + 1)
        per_epoch = max(1, windows // min(batch, windows))
        return f"{Span.parse('length', text).iterations(per_epoch)} iterations"

    unrolled = (training.unroll, training.batch)
    return replace(
        config,
        non=replace(config.non, length=fixed(config.non.length, 1, config.non.batch)),
        training=replace(training, length=fixed(training.length, *unrolled)),
        zo=replace(config.zo, resample=fixed(config.zo.resample, *unrolled)),
    )
