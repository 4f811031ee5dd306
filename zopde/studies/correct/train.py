"""Training one label with one seed, and rolling the unseen runs out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor, nn

from zopde.blackbox import CountedSolver, failures_of
from zopde.contracts import Objective, Solver
from zopde.files import reading
from zopde.interface import InterfaceSolver
from zopde.oracle import WeightOracle, relative_mu
from zopde.oracle.coordinates import Coordinates
from zopde.progress import Progress, Titled
from zopde.sparsity import LayerMasks, LayerRatios, Masks, RandomMasks
from zopde.studies.correct.cut import Interface, open_interface
from zopde.studies.correct.evaluate import Evaluation, evaluate, save_corrector, save_states
from zopde.studies.correct.labels import LABELS, Label
from zopde.studies.correct.looks import SIGNAL, Keeping, Signals
from zopde.studies.correct.models import MODEL
from zopde.studies.correct.parameter import FILE as FOUND
from zopde.studies.correct.parameter import GUESS, Recorded, first_guess, save_given
from zopde.studies.correct.problem import Opened, Schedule
from zopde.studies.correct.quality import FILE as QUALITY
from zopde.studies.correct.quality import rated, rating_of, read_qualities, said
from zopde.studies.correct.ways import decided
from zopde.studies.run import Place, total_cost
from zopde.studies.scores import (
    FILE,
    Scoring,
    cost_of,
    ratios_from,
    read_scoring,
    scores_by,
    tell,
    write_scoring,
)
from zopde.studies.settings import iterations_in
from zopde.training import (
    Backprop,
    EnsembleKalman,
    EvolutionStrategy,
    Fitted,
    GradientSource,
    Skipping,
    ZerothOrder,
    not_measured,
)
from zopde.training.forward import ForwardGradient, has_forward_mode
from zopde.training.loop import fit_watched
from zopde.training.quality import Quality, Rated
from zopde.training.signal import Heard, share_of_look
from zopde.training.validation import UNWATCHED
from zopde.zo.cge import Failed

START = "NON-start"
CHUNK = "chunk.txt"
_TOGETHER = 16  # members of an ensemble that share a pass
REFERENCE = "reference.nc"  # of the unseen runs, for whoever looks at the folder alone


@dataclass(frozen=True)
class Trained:
    """What became of a label with one seed."""

    cost: Fitted  # with the NON start it began from, the scores and what the interface took once
    evaluation: Evaluation  # the unseen runs
    failures: Counter[str]  # failed solver steps by reason, of training and rollouts
    # (simulation, time, parameter, *space), what each step of the rollouts had; None without any
    parameter: Tensor | None = None
    qualities: Sequence[Quality] = ()  # what looks at its gradients found


@dataclass(frozen=True)
class Stage:
    """A stretch of training: on what, by which gradient."""

    objective_at: Callable[[int], Objective]  # iteration -> objective
    gradient: GradientSource  # where gradients come from
    schedule: Schedule  # how long, and how gradients become updates
    counter: CountedSolver  # counts the solver steps
    interface: Interface | None = None  # what passes the solver by queries

    def compared(
        self, looked: Rated | None = None, twin: CountedSolver | None = None
    ) -> dict[str, int]:
        """What was compared besides its gradients, as `Fitted.checked` counts it.

        A source that verifies stacked probes counts evaluations, so looks at it count likewise.
        """
        if isinstance(self.gradient, ZerothOrder | EvolutionStrategy | EnsembleKalman):
            return {"gradient": looked.evaluations} if looked else {}
        return {"interface": self.counter.compared + (twin.compared if twin else 0)}


def begin(opened: Opened, place: Place, resume: bool) -> Opened:  # noqa: ARG001
    """Keep the reference; find the way and the probes of a pass that the settings leave open."""
    root, test = place.folder.root, opened.problem.test
    save_states(test.states, test, root / REFERENCE)
    if opened.problem.inject == "parameter":
        names = opened.problem.solver.grid.forcing_channels
        save_given(first_guess(test, names), test, names, root / GUESS)
    for label, why in opened.skipped.items():
        place.progress.note(f"{label}: left out, {why}")
    opened = decided(opened, place.progress, place.folder)
    if not any(LABELS[label].gradient == "zo" for label in opened.labels) or opened.weights.chunk:
        return opened
    path = place.folder.root / CHUNK
    if not path.exists():
        place.folder.write_text(CHUNK, f"{measured_chunk(opened, place.progress)}\n")
    with reading("file", path, "probes per pass", "start over (--overwrite)"):
        text = path.read_text(encoding="utf-8").strip()
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(repr(text))
    return with_chunk(opened, int(text))


def with_chunk(opened: Opened, chunk: int) -> Opened:
    """The same with `chunk` probes a pass."""
    return replace(opened, weights=replace(opened.weights, chunk=chunk))


def measured_chunk(opened: Opened, progress: Progress) -> int:
    """Probes of a pass, measured on the first batch with as many threads as gradients will have.

    The queries that it takes belong to no label.
    """
    seed = opened.seeds[0]
    with opened.workers.measured_here():
        objective = opened.first_objective(opened.problem.solver, seed)
        oracle = WeightOracle(opened.new_network(seed), objective, verify=False)
        chunk = oracle.calibrate(opened.weights.mu)
    progress.note(f"{chunk} probes per pass, measured; zo.chunk={chunk} repeats it")
    return chunk


def train(opened: Opened, name: str, seed: int, place: Place) -> Trained:
    """Train the label `name`, keep its model, and roll out the unseen runs."""
    label, problem, folder = LABELS[name], opened.problem, place.of(name, seed)
    network, cost = None, Fitted(0, 0, 0, 0.0)
    if label.trained:
        network = opened.new_network(seed)
        cost = fit_label(opened, name, network, seed, place)
        path = folder / MODEL
        network.eval()  # as whoever loads it has it
        save_corrector(network, opened.kind, opened.sizes, opened.spec, path)
    before = failures_of(problem.solver)
    recorded = Recorded(opened.bearing) if network and problem.inject == "parameter" else None
    solver = problem.told(recorded or opened.bearing)
    with place.progress.stage(f"{name}, rollouts", problem.test.steps) as advance:
        how = advance, opened.judges, problem.every
        evaluation = evaluate(solver, problem.test, network, *how)
    save_states(evaluation.predicted, problem.test, folder / "rollout.nc")
    parameter = recorded.given(problem.every) if recorded else None
    if parameter is not None:
        names = problem.solver.grid.forcing_channels
        save_given(parameter, problem.test, names, folder / FOUND)
    failures = Counter(cost.failures) + (failures_of(problem.solver) - before)
    place.done(name, seed, cost, mae=float(evaluation.error.mean_mae.mean()))
    return Trained(cost, evaluation, failures, parameter, read_qualities(folder / QUALITY))


def fit_label(opened: Opened, name: str, network: nn.Module, seed: int, place: Place) -> Fitted:
    """Train a network by a label, with all that comes before; from a checkpoint if there is one."""
    label, note = LABELS[name], place.progress.note
    costs: list[Fitted] = []
    ratios: LayerRatios | None = None
    if opened.starts_from_non(name):
        costs.append(_fit(opened, network, start_stage(opened, seed), START, seed, place))
    before, scored = failures_of(opened.problem.solver), True
    if opened.needs_scores(label):
        scoring = _kept_scoring(opened, network, name, seed, place)
        ratios, scored = scoring.ratios, scoring.ratios is not None
        costs.append(scoring.cost)
    interface = None
    if name in opened.cuts:
        own = place.of(name, seed)
        told = Titled(place.progress, f"{name}, seed {seed}")
        keeping = Keeping(opened.identity, opened.jacobians, own, place.pool, told)
        cut, unroll = opened.cuts[name], opened.training.unroll
        interface = open_interface(cut, opened.problem, seed, unroll, keeping, opened.emulator)
        note(f"{name}, seed {seed}: {interface.note}")
        costs.append(interface.cost)
    failed = failures_of(opened.problem.solver) - before
    costs.append(Fitted(0, 0, 0, 0.0, failures=dict(failed)))
    if scored:
        stage = label_stage(opened, label, network, seed, ratios, place.pool, interface)
        costs.append(_fit(opened, network, stage, name, seed, place))
        if looks := read_qualities(place.of(name, seed) / QUALITY):
            note(f"{name}, seed {seed}: {said(looks)}")
        if interface and (seen := interface.finish(costs[-1].iterations)):
            note(f"{name}, seed {seed}: {seen}")
    return total_cost(costs)


def _fit(
    opened: Opened, network: nn.Module, stage: Stage, name: str, seed: int, place: Place
) -> Fitted:
    gradient, schedule, interface = stage.gradient, stage.schedule, stage.interface
    own, title, compared = place.of(name, seed), f"{name}, seed {seed}", stage.compared
    if rating_of(opened, name).looks:
        looked = rated(opened, name, gradient, seed, own / QUALITY)
        gradient, compared = looked[0], partial(stage.compared, *looked)
    if looks_of(opened, name):
        signals = Signals(own / SIGNAL, title, schedule.unroll, place.progress.note)
        gradient = Heard(gradient, schedule.look_every, signals.tell)
    gradient = Skipping(gradient) if opened.drop else gradient
    return fit_watched(
        *(network, stage.objective_at, gradient, schedule.optimise, schedule.iterations),
        *(own, place.progress, title),
        solver_steps=lambda: stage.counter.steps,
        every_seconds=opened.every_seconds,
        agreement=interface.agreement if interface else not_measured,
        variance=interface.variance if interface else not_measured,
        failures=lambda: failures_of(stage.counter),
        told=place.telling(name, seed),
        compared=compared,
        # The start is part of a training: what is kept of it is where it ends.
        validation=UNWATCHED if name == START else opened.validation(),
    )


def looks_of(opened: Opened, name: str) -> float:
    """What all looks at the noise of a label's gradients take, in gradients; 0 without any.

    There are none without the solver's derivative, which alone explodes, and none at products from
    random directions, nor of FG: their own noise belongs to the iteration.
    """
    cut, training = opened.cuts.get(name), opened.training
    if cut is None:
        through = name in LABELS and LABELS[name].twin and LABELS[name].gradient == "backprop"
    else:
        through = cut.way not in ("random", "identity")
    if not (through and training.look_every):
        return 0.0
    looks = -(-training.iterations // training.look_every)
    return looks * share_of_look(training.unroll, training.batch)


def start_stage(opened: Opened, seed: int) -> Stage:
    """NON on stored data, as the others' start: back-propagation, no solver step."""
    return _backprop_stage(opened, opened.start, opened.problem.solver, seed)


def label_stage(
    opened: Opened,
    label: Label,
    network: nn.Module,
    seed: int,
    ratios: LayerRatios | None = None,
    pool: Executor | None = None,
    interface: Interface | None = None,
) -> Stage:
    """The stage in which the labels differ: weights by `ratios`, the solver by `interface`."""
    solver = opened.problem.twin if label.twin else opened.problem.solver
    assert solver is not None, "labels without a solver are left out before"
    schedule = opened.schedule_of(label)
    stage = _backprop_stage(opened, schedule, solver, seed, interface)
    if label.gradient in ("eki", "etki"):
        return _ensemble_stage(opened, label.gradient, stage, seed)
    if label.gradient == "forward":
        return _forward_stage(opened, stage, network, seed)
    if label.gradient == "es":
        evolution = _evolution(opened, seed, pool, stage.counter)
        return replace(stage, gradient=evolution)
    if label.gradient != "zo":
        return stage
    cut, every = opened.weights, iterations_in(opened.weights.resample, schedule.per_epoch)
    masks: Masks
    if ratios is None:
        masks = RandomMasks(Coordinates(network).total, cut.sparsity, every, seed)
    else:
        masks = LayerMasks(ratios, every, seed)
    oracles = opened.workers.oracle_at(cut.chunk, masks.active, pool, stage.counter)
    failed: Failed = "drop" if opened.drop else "keep"
    gradient = ZerothOrder(masks, cut.mu, cut.scheme, oracles, cut.mu_relative, failed)
    return replace(stage, gradient=gradient)


def _forward_stage(opened: Opened, stage: Stage, network: nn.Module, seed: int) -> Stage:
    """The same windows; how the twin is differentiated is tried on one, which nobody counts."""
    twin, cut = opened.problem.twin, opened.forward
    assert twin is not None, "labels without a solver are left out before"
    objective = opened.objective(
        stage.schedule.windows(opened.problem, seed), twin, seed, 0, stage.schedule
    )
    forwards = has_forward_mode(network, objective)
    return replace(stage, gradient=ForwardGradient(cut.directions, seed, cut.combine, forwards))


def _evolution(
    opened: Opened, seed: int, pool: Executor | None, counter: CountedSolver
) -> EvolutionStrategy:
    """Pairs of moved networks; as many share a pass as the solver may have states of."""
    cut = opened.evolution
    failed: Failed = "drop" if opened.drop else "keep"
    together = max(1, min(_TOGETHER, opened.interface.states // opened.training.batch))
    oracles = opened.workers.oracle_at(together, cut.members + 1, pool, counter)
    how = cut.members, cut.rank, cut.sigma, cut.shaping
    return EvolutionStrategy(*how, oracles, seed, failed)


def _ensemble_stage(
    opened: Opened, method: Literal["eki", "etki"], stage: Stage, seed: int
) -> Stage:
    """The same windows, on which an ensemble is moved."""
    cut, states = opened.ensemble, opened.interface.states
    together = max(1, min(_TOGETHER, states // stage.schedule.batch))
    localised = method == "eki" and cut.localised
    how = cut.members, cut.spread, cut.noise, cut.inflation, seed, together, localised
    source = EnsembleKalman(method, *how)
    schedule = replace(stage.schedule, iterations=opened.ensemble_iterations, optimise=source)
    return replace(stage, gradient=source, schedule=schedule)


def _backprop_stage(
    opened: Opened,
    schedule: Schedule,
    solver: Solver,
    seed: int,
    interface: Interface | None = None,
) -> Stage:
    counter, windows = CountedSolver(solver), schedule.windows(opened.problem, seed)

    def objective_at(iteration: int) -> Objective:
        passed: Solver = counter
        if interface:
            passed = InterfaceSolver(counter, interface.pullback_at(iteration))
        return opened.objective(windows, passed, seed, iteration, schedule)

    return Stage(objective_at, Backprop(), schedule, counter, interface)


def score_layers(
    opened: Opened, network: nn.Module, seed: int, directions: int, pool: Executor | None = None
) -> Scoring:
    """Score the network on the label's first batch; a function of its arguments."""
    began, cut = time.monotonic(), opened.weights
    solver = opened.problem.twin if cut.score == "grasp" else opened.problem.solver
    assert solver is not None, "see check_suits"
    counter = CountedSolver(solver)
    objective = opened.first_objective(counter, seed)
    oracles = opened.workers.oracle_at(cut.chunk, directions, pool, counter)
    mu = cut.mu
    if cut.mu_relative:  # a direction moves all tensors at once: as far as their own steps
        mu = float(relative_mu(network, mu).square().mean().sqrt())
    scores = scores_by(cut.score, network, objective, directions, mu, seed, oracles)
    cost = cost_of(scores, counter.steps, time.monotonic() - began)
    return ratios_from(network, scores, cut.sparsity, cost)


def _kept_scoring(
    opened: Opened, network: nn.Module, name: str, seed: int, place: Place
) -> Scoring:
    """`score_layers`, kept in the label's folder: an interrupted run finds it there."""
    cut, path = opened.weights, place.of(name, seed) / FILE
    if path.exists():
        scoring = read_scoring(path)
    else:
        scoring = score_layers(opened, network, seed, cut.score_directions, place.pool)
        write_scoring(place.folder, path, scoring, cut.score, cut.sparsity)
    tell(place.progress, scoring, f"{name}, seed {seed}", f"layers by score {cut.score!r}")
    return scoring
