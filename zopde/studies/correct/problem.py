"""What a correction trains on: plain objects, made of the settings by `open.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from zopde.blackbox import CountedSolver, Dropping
from zopde.contracts import Solver, seedable
from zopde.data import Trajectories, Windows
from zopde.files import digest_of
from zopde.hybrid import INJECTIONS, Injection, LastLoss, Loss, Told, UnrolledObjective
from zopde.interface import Step, Variable
from zopde.interface.scales import channel_scale
from zopde.interface.vjp import Probing
from zopde.nets import Normalised
from zopde.nets.correctors import Inject
from zopde.seeding import generator, noise_seeds
from zopde.studies.correct.cuts import (
    EmulatorCut,
    EnsembleCut,
    EvolutionCut,
    ForwardCut,
    InterfaceCut,
    WeightCut,
)
from zopde.studies.correct.labels import LABELS, Label
from zopde.studies.correct.pictures import Picture
from zopde.studies.correct.push import PushSettings, moved_off
from zopde.studies.correct.reference import Reference
from zopde.studies.run import Trainings
from zopde.training import Updating, Validation
from zopde.training.validation import UNWATCHED

LOOKED_AT = 16  # windows of the validation, at the most: each look steps them all


@dataclass(frozen=True)
class Problem:
    """What every label shares."""

    solver: Solver  # the coarse black box
    twin: Solver | None  # its differentiable twin, for SOL alone; None where it has none
    train: Trajectories  # reference data to learn from
    test: Trajectories  # of the unseen runs, the states that follow a correction
    stepped: Tensor  # the solver's answer to every training state; see `first_steps`
    later: Tensor  # likewise `every` steps on; as `stepped` where no window goes on from there
    prepared: int  # solver steps that these two took
    inject: Inject  # where the correction enters; a key of `INJECTIONS`
    every: int  # solver steps to a correction
    held: Trajectories | None = None  # reference data to choose the best weights by
    history: int = 0  # earlier states that the network sees

    @cached_property  # every iteration divides by it
    def scale(self) -> Tensor:
        """(channel,), the training data's standard deviation."""
        return self.train.state_scale()

    @cached_property
    def stepped_data(self) -> Trajectories:
        """The training data without what the network alone is told."""
        return self.train.of_solver(self.solver.grid)

    def told(self, solver: Solver) -> Solver:
        """A solver, this one or one in its place, that takes the forcing as the data have it."""
        grid = self.train.grid
        same = grid.forcing_channels == solver.grid.forcing_channels
        return solver if same else Told(solver, grid)

    @property
    def injection(self) -> Injection:
        """How the correction enters."""
        return INJECTIONS[self.inject]

    @property
    def variables(self) -> list[Variable]:
        """Inputs of the solver that the network feeds, in an unrolled rollout."""
        return ["state", "forcing"] if self.injection.adds_to == "forcing" else ["state"]

    @cached_property
    def answered(self) -> Tensor:
        """Numbers of the training states that the solver has an answer to.

        All, but for those that were measured in part and those of failed steps in "drop".
        """
        return self.stepped.flatten(0, 1).flatten(1).isfinite().all(dim=1).nonzero().flatten().cpu()

    @property
    def is_indifferent(self) -> bool:
        """Whether the solver's answers to all stored states are the same, though these differ."""
        asked = self.stored_steps(self.solver, self.answered)
        states, stepped = asked.state, asked.stepped
        return bool((stepped == stepped[0]).all()) and not bool((states == states[0]).all())

    def _numbers(self, variable: Variable) -> Tensor:
        """(channel, n), the training data of an input."""
        data = self.stepped_data
        values = data.states if variable == "state" else data.forcing
        assert values is not None, "no forcing, no influence of it"
        if not bool(self.train.whole.all()):
            values = values[self.train.whole][None]
        return self.train.grid.fluid_values(values).transpose(0, 2).flatten(1)

    def scale_of(self, variable: Variable, cut: InterfaceCut) -> Tensor:
        """(channel,), what the `mu` of a cut is in units of."""
        numbers = self._numbers(variable)
        if cut.mu_of == "channel":
            return channel_scale(numbers, cut.mu)
        scales = self.scale if variable == "state" else self.stepped_data.forcing_scale()
        return scales.square().mean().sqrt().expand(len(numbers))

    def scales(self, cut: InterfaceCut) -> dict[Variable, Tensor]:
        """The same of every input."""
        return {variable: self.scale_of(variable, cut) for variable in self.variables}

    def probing(self, cut: InterfaceCut, executor: Executor | None) -> dict[Variable, Probing]:
        """How the derivative by every input is asked for."""
        return {
            variable: Probing(cut.mu, cut.scheme, cut.states, executor, scale)
            for variable, scale in self.scales(cut).items()
        }

    def odd_channels(self, cut: InterfaceCut) -> str:
        """What there is to say of channels whose `mu` cannot be in standard deviations."""
        grid, said = self.solver.grid, ""
        for variable in self.variables if cut.mu_of == "channel" else []:
            names = grid.channels if variable == "state" else grid.forcing_channels
            spreads = self._numbers(variable).std(dim=1, correction=0).tolist()
            units = self.scale_of(variable, cut).tolist()
            for name, unit, spread in zip(names, units, spreads, strict=True):
                if abs(spread - unit) > 0.01 * unit:
                    said += f"; {name} hardly varies: mu is in units of {unit:.2g} there"
        return said

    def stored_steps(self, solver: Solver, rows: Tensor | None = None) -> Step:
        """Steps of the training data, all or those of some rows, as if `solver` had made them."""
        data, stepped = self.stepped_data, self.stepped.flatten(0, 1)
        chosen: slice | Tensor = slice(None) if rows is None else rows.to(stepped.device)
        forcing = None if data.forcing is None else data.forcing[:, :-1].flatten(0, 1)[chosen]
        return Step(solver, data.states[:, :-1].flatten(0, 1)[chosen], forcing, stepped[chosen])

    def digest(self) -> str:
        """SHA-256 of the reference data's numbers."""
        parts = self.train, self.test, *filter(None, [self.held])
        return digest_of(values for part in parts for values in (part.states, part.forcing))


def products_of(injection: Injection, unroll: int, every: int) -> dict[Variable, int]:
    """Vector-Jacobian products of a backward pass, by the input of the solver; of one window.

    Each is one of a single solver step, of which a corrected one has `every`.
    """
    steps = unroll * every
    if injection.adds_to == "forcing":
        return {"state": steps - 1, "forcing": steps}
    # A network before the solver moves the state of the first step, too.
    return {"state": steps if injection.through_solver else steps - every}


@dataclass(frozen=True)
class Schedule:
    """A stretch of training."""

    unroll: int  # corrected steps that the loss sees
    batch: int  # windows side by side
    iterations: int  # updates
    per_epoch: int  # updates that make an epoch
    optimise: Updating  # how gradients become updates
    loss: Loss | None = None  # what judges a window; None: squares
    nudge: float = 0.0  # how far a state is pulled towards the reference at every step
    noise: float = 0.0  # standard deviations by which the first states are moved
    look_every: int = 0  # iterations from one look at a gradient to the next; 0: none

    def windows(self, problem: Problem, seed: int) -> Windows:
        """The stretches of reference data, shuffled by the seed."""
        what = self.unroll, self.batch, seed, problem.every, problem.history
        return Windows(problem.train, problem.later, *what)


@dataclass(frozen=True)
class Opened(Trainings):
    """A correction that is ready to train."""

    problem: Problem  # solver and data
    bare: Solver  # the solver without anything round it; it may tell its vorticity
    spec: str  # the solver's name
    identity: str  # what decides the solver's answers, for those that are kept
    content: str  # a digest of the files that the solver is made of, wherever they lie
    late: str = field(default="", kw_only=True)  # a digest of what it imports as it steps
    code: str = field(default="", kw_only=True)  # a digest of the files of the user's own corrector
    judge: str = field(default="", kw_only=True)  # likewise of the user's own loss
    # Seed -> an untrained corrector, the same for every label
    new_network: Callable[[int], Normalised]
    kind: str  # of corrector
    sizes: dict[str, int]  # of the corrector
    start: Schedule  # NON on stored data, from which labels start
    training: Schedule  # the stage in which the labels differ
    from_scratch: bool  # whether every label starts from scratch
    push: PushSettings  # the windows of PUSH
    weights: WeightCut  # the weight cut
    interface: InterfaceCut  # the interface cut, for all labels
    cuts: Mapping[str, InterfaceCut]  # label -> its interface cut
    emulator: EmulatorCut  # the network of EMU
    forward: ForwardCut  # the directions of FG
    evolution: EvolutionCut  # the cut of ES
    ensemble: EnsembleCut  # the cut of EKI and ETKI
    ensemble_iterations: int  # updates of these
    drop: bool  # whether failed steps are left out
    bear: bool  # whether a rollout bears a step that fails again and again
    jacobians: Path  # where the Jacobians of banks lie, for every run with this solver and data
    rollout_steps: int  # steps of an unseen run that is planned
    metrics: Mapping[str, Loss] = field(default_factory=dict)  # the user's own, of rollouts
    pictures: Mapping[str, Picture] = field(default_factory=dict)  # the user's own, of a rollout
    split: str = ""  # how one long run was split; "" where there are several
    to_make: Reference | None = None  # reference data that have to be made first, in a dry run
    rollout_seconds: float = 0.0  # of the unseen runs, in a dry run
    chance: float = 0.0  # deviations by which answers of a random solver without a seed differ
    checking: int = 0  # solver steps in which the solver was checked before the training
    validate_every: int = 20  # iterations from one look at the validation to the next
    patience: int = 0  # looks without a better one that end a training; 0: none do
    looked_at: int = 0  # windows of a look; 0 where there is no validation

    @property
    def bearing(self) -> Solver:
        """The solver, a step of which may fail: the state then diverges, and the run goes on."""
        return Dropping(self.problem.solver) if self.bear else self.problem.solver

    @property
    def judged_numbers(self) -> int:
        """Entries of all states in the windows of an iteration."""
        windows = self.training.batch * self.training.unroll
        return windows * self.problem.train.states[0, 0].numel()

    @property
    def possible(self) -> list[str]:
        """Labels that the solver can be trained by."""
        return [label for label in self.labels if label not in self.skipped]

    @property
    def skipped(self) -> dict[str, str]:
        """Label -> why it is left out."""
        if self.problem.twin is not None:
            return {}
        why = "the solver has no differentiable twin"
        return {label: why for label in self.labels if LABELS[label].twin}

    @property
    def trainings(self) -> list[tuple[str, int]]:
        """Seed by seed; what is not trained once."""
        untrained = [(label, 0) for label in self.possible if not LABELS[label].trained]
        trained = [label for label in self.possible if LABELS[label].trained]
        return untrained + [(label, seed) for seed in self.seeds for label in trained]

    @property
    def priced(self) -> list[str]:
        """What a dry run prices."""
        return [*(["data"] if self.to_make else []), *self.possible]

    @property
    def records(self) -> dict[str, tuple[str, str]]:
        """A resumption must see the same data, and the same solver."""
        imports = f"what solver {self.spec!r} imports in a step"
        return {
            "data.sha256": (self.problem.digest(), "reference data"),
            "solver.digest": (self.content, f"solver {self.spec!r}"),
            **({"imports.digest": (self.late, imports)} if self.late else {}),
            **({"network.digest": (self.code, f"network {self.kind!r}")} if self.code else {}),
            **({"loss.digest": (self.judge, "the loss")} if self.judge else {}),
        }

    def starts_from_non(self, name: str) -> bool:
        """Whether a label begins with the NON stage's network."""
        return not self.from_scratch and not LABELS[name].always_scratch

    def iterations_of(self, name: str) -> int:
        """Updates of a label, with those of its start."""
        start = self.start.iterations if self.starts_from_non(name) else 0
        own = self.ensemble_iterations if LABELS[name].by_residuals else self.training.iterations
        return start + own

    def schedule_of(self, label: Label) -> Schedule:
        """The stage in which the labels differ; without an unroll, as many judged states."""
        schedule, push = self.training, self.push
        if label.unrolled and not label.pushed:
            return schedule
        schedule = replace(schedule, unroll=1, batch=schedule.batch * schedule.unroll, loss=None)
        if not label.pushed:
            return schedule
        last = LastLoss(self.problem.scale)
        return replace(schedule, unroll=push.steps, loss=last, nudge=0.0, noise=push.noise)

    def needs_scores(self, label: Label) -> bool:
        """Whether a label begins with scoring its layers."""
        return label.gradient == "zo" and self.weights.score != "none"

    def objective(
        self, windows: Windows, solver: Solver, seed: int, at: int, schedule: Schedule
    ) -> UnrolledObjective:
        """The unrolled loss of one iteration, with the steps taken by `solver`."""
        window, problem = windows.batch(at), self.problem
        if problem.injection.through_solver:
            window = replace(window, stepped=None)  # it starts from a state that is corrected
        if schedule.noise:
            draw = generator(seed, "push", at)
            window = moved_off(window, schedule.noise, problem.scale, draw)
        seeds = noise_seeds(seed, at, window.unroll) if seedable(solver) else ()
        what = problem.scale, problem.injection, seeds, schedule.loss, schedule.nudge
        return UnrolledObjective(problem.told(solver), window, *what)

    def validation(self) -> Validation:
        """Looks at windows that no training sees, as long as its own, and by its loss."""
        problem, held, every = self.problem, self.problem.held, self.problem.every
        if held is None:
            return UNWATCHED
        counter = CountedSolver(self.bearing)
        starts = held.states[:, : held.steps + 1 - every]
        windows = Windows(held, starts, self.training.unroll, 1, 0, every, problem.history)
        window = replace(windows.spread(LOOKED_AT), stepped=None)
        what = window, problem.scale, problem.injection, noise_seeds(0, 0, window.unroll)
        objective = UnrolledObjective(problem.told(counter), *what, self.training.loss)

        def loss_of(network: nn.Module) -> float:
            training = network.training
            with torch.no_grad():
                loss = float(objective(network.eval(), 1))
            network.train(training)
            return loss

        return Validation(loss_of, self.validate_every, self.patience, lambda: counter.steps)

    @property
    def judges(self) -> dict[str, Loss]:
        """Who judges rollouts, besides the errors of every run."""
        loss = self.training.loss
        return {**({"loss": loss} if loss else {}), **self.metrics}

    def first_objective(self, solver: Solver, seed: int) -> UnrolledObjective:
        """The unrolled loss on a label's first batch."""
        windows = self.training.windows(self.problem, seed)
        return self.objective(windows, solver, seed, 0, self.training)
