"""What a correction trains on: plain objects, made of the settings by `open.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from zopde.contracts import Solver, seedable
from zopde.data import Trajectories, Windows
from zopde.files import digest_of
from zopde.hybrid import INJECTIONS, Injection, UnrolledObjective
from zopde.interface.vjp import Variable
from zopde.nets import Normalised
from zopde.nets.correctors import Inject
from zopde.seeding import noise_seeds
from zopde.studies.correct.cuts import InterfaceCut, WeightCut
from zopde.studies.correct.labels import LABELS, Label
from zopde.studies.correct.reference import Reference
from zopde.studies.workers import Workers
from zopde.training import Optimise


@dataclass(frozen=True)
class Problem:
    """What every label shares."""

    solver: Solver  # the coarse black box
    twin: Solver | None  # its differentiable twin, for SOL alone; None where it has none
    train: Trajectories  # reference data to learn from
    test: Trajectories  # reference data of the unseen runs
    stepped: Tensor  # the solver's answer to every training state; see `first_steps`
    inject: Inject  # where the correction enters: "after", "before" or "forcing"

    @cached_property  # every iteration divides by it
    def scale(self) -> Tensor:
        """(channel,), the training data's standard deviation."""
        return self.train.state_scale()

    @property
    def injection(self) -> Injection:
        """How the correction enters."""
        return INJECTIONS[self.inject]

    @property
    def variables(self) -> list[Variable]:
        """Inputs of the solver that the network feeds, in an unrolled rollout."""
        return ["state", "forcing"] if self.injection.adds_to == "forcing" else ["state"]

    def scale_of(self, variable: Variable) -> float:
        """Root mean square, over the channels, of the training data's standard deviations."""
        scales = {"state": self.train.state_scale, "forcing": self.train.forcing_scale}
        return float(scales[variable]().square().mean().sqrt())

    def digest(self) -> str:
        """SHA-256 of the reference data's numbers."""
        parts = self.train, self.test
        return digest_of(values for part in parts for values in (part.states, part.forcing))


@dataclass(frozen=True)
class Schedule:
    """A stretch of training."""

    unroll: int  # corrected steps that the loss sees
    batch: int  # windows side by side
    iterations: int  # updates
    per_epoch: int  # updates that make an epoch
    optimise: Optimise  # how gradients become updates

    def windows(self, problem: Problem, seed: int) -> Windows:
        """The stretches of reference data, shuffled by the seed."""
        return Windows(problem.train, problem.stepped, self.unroll, self.batch, seed)


@dataclass(frozen=True)
class Opened:
    """A correction that is ready to train."""

    problem: Problem  # solver and data
    bare: Solver  # the solver without anything round it; it may tell its vorticity
    spec: str  # the solver's name
    identity: str  # what decides the solver's answers, for those that are kept
    content: str  # a digest of the files that the solver is made of, wherever they lie
    # Seed -> an untrained corrector, the same for every label
    new_network: Callable[[int], Normalised]
    kind: str  # of corrector
    sizes: dict[str, int]  # of the corrector
    start: Schedule  # NON on stored data, from which labels start
    training: Schedule  # the stage in which the labels differ
    from_scratch: bool  # whether every label starts from scratch
    weights: WeightCut  # the weight cut
    interface: InterfaceCut  # the interface cut, for all labels
    cuts: Mapping[str, InterfaceCut]  # label -> its interface cut
    labels: tuple[str, ...]  # rows of the table
    seeds: tuple[int, ...]  # of the trainings
    workers: Workers  # who evaluates probes
    every_seconds: float  # time between two checkpoints
    drop: bool  # whether failed steps are left out
    bear: bool  # whether a rollout bears a step that fails again and again
    jacobians: Path  # where the Jacobians of banks lie, for every run with this solver and data
    rollout_steps: int  # steps of an unseen run that is planned
    to_make: Reference | None = None  # reference data that have to be made first, in a dry run
    rollout_seconds: float = 0.0  # of the unseen runs, in a dry run

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
        return {
            "data.sha256": (self.problem.digest(), "reference data"),
            "solver.digest": (self.content, f"solver {self.spec!r}"),
        }

    def starts_from_non(self, name: str) -> bool:
        """Whether a label begins with the NON stage's network."""
        return not self.from_scratch and not LABELS[name].always_scratch

    def needs_scores(self, label: Label) -> bool:
        """Whether a label begins with scoring its layers."""
        return label.gradient == "zo" and self.weights.score != "none"

    def objective(self, windows: Windows, solver: Solver, seed: int, at: int) -> UnrolledObjective:
        """The unrolled loss of one iteration, with the steps taken by `solver`."""
        window = windows.batch(at)
        seeds = noise_seeds(seed, at, window.unroll) if seedable(solver) else ()
        return UnrolledObjective(solver, window, self.problem.scale, self.problem.injection, seeds)

    def first_objective(self, solver: Solver, seed: int) -> UnrolledObjective:
        """The unrolled loss on a label's first batch."""
        return self.objective(self.training.windows(self.problem, seed), solver, seed, 0)
