"""Training one label with one seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from zopde.blackbox import CountedSolver, failures_of
from zopde.contracts import Objective, Solver, seedable
from zopde.data import Windows
from zopde.hybrid import INJECTIONS, UnrolledObjective
from zopde.interface import InterfaceSolver
from zopde.nets import Normalised
from zopde.oracle.coordinates import Coordinates
from zopde.progress import Progress
from zopde.seeding import noise_seeds
from zopde.sparsity import LayerMasks, LayerRatios, Masks, RandomMasks
from zopde.studies.correct.bank import Places, shared_folder
from zopde.studies.correct.cut import Interface, PullbackAt, open_interface
from zopde.studies.correct.evaluate import save_corrector
from zopde.studies.correct.labels import WAYS, Way
from zopde.studies.correct.problem import Problem, data_path, new_corrector
from zopde.studies.correct.scoring import kept_scoring, needs_scores
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.folder import START, RunFolder
from zopde.studies.scores import Scoring
from zopde.studies.settings import Span
from zopde.studies.workers import oracle_at
from zopde.training import Backprop, Fitted, GradientSource, Optimise, Skipping, ZerothOrder, fit
from zopde.zo.cge import Failed


@dataclass(frozen=True)
class Stage:
    """A stretch of training: on what, by which gradient, how long.

    Args:
        objective_at: Iteration -> objective.
        gradient: Where gradients come from.
        optimise: How they become updates.
        iterations: How many.
        counter: Counts the solver steps.
    """

    objective_at: Callable[[int], Objective]
    gradient: GradientSource
    optimise: Optimise
    iterations: int
    counter: CountedSolver


@final
class Trainer:
    """Trains the labels of a run, each in its own folder, each resumable.

    Args:
        config: The run's settings.
        problem: Solver and data.
        folder: Where checkpoints, histories and models go.
        progress: Who is watching.
        pool: Workers for zeroth-order probes; None for this process.
    """

    def __init__(
        self,
        config: CorrectionConfig,
        problem: Problem,
        folder: RunFolder,
        progress: Progress,
        pool: Executor | None = None,
    ) -> None:
        self._pool = pool
        self._config = config
        self._problem = problem
        self._folder = folder
        self._progress = progress

    def train(self, label: str, seed: int) -> tuple[Normalised, Fitted]:
        """The trained network, and what it cost with the NON start it began from."""
        way, config = WAYS[label], self._config
        network = new_corrector(config, self._problem, seed)
        costs, ratios, ready = [], None, True
        if starts_from_non(config, label):
            start = start_stage(config, self._problem, seed)
            costs.append(self._fit(network, start, START, seed))
        before = failures_of(self._problem.solver)
        if needs_scores(config, way):
            scoring = self._score(network, label, seed)
            ratios, ready = scoring.ratios, scoring.ratios is not None
            costs.append(scoring.cost)
        interface = self._open(label, seed) if way.interface else None
        if interface:
            costs.append(interface.cost)
        failed = failures_of(self._problem.solver) - before
        costs.append(Fitted(0, 0, 0, 0.0, failures=dict(failed)))
        if ready:
            stage = label_stage(
                config, self._problem, way, network, seed, ratios, self._pool, interface
            )
            costs.append(self._fit(network, stage, label, seed, interface))
            said = interface.finish(stage.iterations) if interface else ""
            if said:
                self._progress.note(f"{label}, seed {seed}: {said}")
        save_corrector(network, config, self._folder.of(label, seed) / "model.safetensors")
        return network, _total(costs)

    def _score(self, network: nn.Module, label: str, seed: int) -> Scoring:
        folder = self._folder
        found = kept_scoring(self._config, self._problem, network, folder, label, seed, self._pool)
        title = f"layers by score {self._config.zo.score!r}"
        self._progress.note(f"{label}, seed {seed}: {found.cost.stopped or title}")
        for line in str(found.ratios or "").splitlines():
            self._progress.note(f"  {line}")
        return found

    def _open(self, label: str, seed: int) -> Interface:
        root, own = self._folder.root, self._folder.of(label, seed)
        shared = shared_folder(data_path(self._config, root.parent), root)
        interface = open_interface(
            self._config, self._problem, seed, Places(shared, own), self._pool, self._progress
        )
        self._progress.note(f"{label}, seed {seed}: {interface.note}")
        return interface

    def _fit(
        self,
        network: nn.Module,
        stage: Stage,
        name: str,
        seed: int,
        interface: Interface | None = None,
    ) -> Fitted:
        gradient = stage.gradient
        if self._config.run.failures == "drop":
            gradient = Skipping(gradient)
        with self._progress.stage(f"{name}, seed {seed}", stage.iterations) as advance:
            cost = fit(
                network,
                stage.objective_at,
                gradient,
                stage.optimise,
                stage.iterations,
                self._folder.of(name, seed),
                solver_steps=lambda: stage.counter.steps,
                every_seconds=self._config.run.checkpoint_seconds,
                progress=lambda loss: advance(1, f"loss {loss:.4g}"),
                agreement=interface.agreement if interface else lambda: None,
                variance=interface.variance if interface else lambda: None,
                failures=lambda: failures_of(stage.counter),
            )
        if cost.stopped:
            self._progress.note(f"{name}, seed {seed}: stopped early, {cost.stopped}")
        return cost


def _total(costs: list[Fitted]) -> Fitted:
    return Fitted(
        sum(cost.iterations for cost in costs),
        sum(cost.queries for cost in costs),
        sum(cost.solver_steps for cost in costs),
        sum(cost.seconds for cost in costs),
        next((cost.stopped for cost in costs if cost.stopped), ""),
        dict(sum((Counter(cost.failures) for cost in costs), Counter[str]())),
        sum(cost.skipped for cost in costs),
    )


def starts_from_non(config: CorrectionConfig, label: str) -> bool:
    """Whether a label begins with the NON stage's network."""
    return config.training.init == "non" and not WAYS[label].always_scratch


def start_stage(config: CorrectionConfig, problem: Problem, seed: int) -> Stage:
    """NON on stored data, as the others' start: back-propagation, no solver step."""
    non = config.non
    windows = Windows(problem.train, problem.stepped, 1, non.batch, seed)
    iterations = Span.parse("non.length", non.length).iterations(windows.per_epoch)
    optimise = Optimise(lr=non.lr, warmup=non.warmup)
    counter = CountedSolver(problem.solver)
    return _stage(config, problem, counter, windows, Backprop(), optimise, iterations, seed)


def label_stage(
    config: CorrectionConfig,
    problem: Problem,
    way: Way,
    network: nn.Module,
    seed: int,
    ratios: LayerRatios | None = None,
    pool: Executor | None = None,
    interface: Interface | None = None,
) -> Stage:
    """The stage in which the labels differ.

    Args:
        config: The run's settings.
        problem: Solver and data.
        way: The label's.
        network: Which will be trained.
        seed: The run's.
        ratios: Where zo.score gives some.
        pool: Workers for zeroth-order probes; None for this process.
        interface: For a label that passes the solver by queries.
    """
    training = config.training
    unrolled = Windows(problem.train, problem.stepped, training.unroll, training.batch, seed)
    per_epoch = unrolled.per_epoch
    iterations = Span.parse("training.length", training.length).iterations(per_epoch)
    windows = unrolled
    if not way.unrolled:
        states = training.batch * training.unroll
        windows = Windows(problem.train, problem.stepped, 1, states, seed)
    solver = problem.twin if way.twin else problem.solver
    assert solver is not None, "labels without a solver are left out before"
    counter = CountedSolver(solver)
    optimise = Optimise(
        training.optimizer, training.lr, training.warmup, training.clip, training.weight_decay
    )
    gradient: GradientSource = Backprop()
    if way.gradient == "zo":
        gradient = zeroth_order(config, network, per_epoch, seed, ratios, counter, pool)
    pullbacks = interface.pullback_at if interface else None
    return _stage(
        config, problem, counter, windows, gradient, optimise, iterations, seed, pullbacks
    )


def zeroth_order(
    config: CorrectionConfig,
    network: nn.Module,
    per_epoch: int,
    seed: int,
    ratios: LayerRatios | None,
    counter: CountedSolver,
    pool: Executor | None,
) -> ZerothOrder:
    """The weight cut: CGE over a random mask, probes `zo.chunk` at a time."""
    zo = config.zo
    every = Span.parse("zo.resample", zo.resample).iterations(per_epoch)
    masks: Masks
    if ratios is None:
        masks = RandomMasks(Coordinates(network).total, zo.sparsity, every, seed)
    else:
        masks = LayerMasks(ratios, every, seed)
    oracles = oracle_at(config, pool, counter, masks.active)
    failed: Failed = "drop" if config.run.failures == "drop" else "keep"
    return ZerothOrder(masks, zo.mu, zo.scheme, oracles, zo.mu_relative, failed)


def _stage(
    config: CorrectionConfig,
    problem: Problem,
    counter: CountedSolver,
    windows: Windows,
    gradient: GradientSource,
    optimise: Optimise,
    iterations: int,
    seed: int,
    pullback_at: PullbackAt | None = None,
) -> Stage:
    scale: torch.Tensor = problem.scale
    injection, stochastic = INJECTIONS[config.corrector.inject], seedable(counter)

    def objective_at(iteration: int) -> Objective:
        solver: Solver = counter
        if pullback_at:
            solver = InterfaceSolver(counter, pullback_at(iteration))
        window = windows.batch(iteration)
        seeds = noise_seeds(seed, iteration, window.unroll) if stochastic else ()
        return UnrolledObjective(solver, window, scale, injection, seeds)

    return Stage(objective_at, gradient, optimise, iterations, counter)
