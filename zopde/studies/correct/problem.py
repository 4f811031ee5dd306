"""What a correction trains on: plain objects, made of the settings by `open.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zopde.blackbox import CountedSolver, Dropping
from zopde.contracts import Solver, seedable
from zopde.data import Trajectories, Windows
from zopde.files import digest_of
from zopde.hybrid import INJECTIONS, Injection, Loss, UnrolledObjective
from zopde.interface import Step, Variable
from zopde.interface.scales import channel_scale
from zopde.nets import Normalised
from zopde.nets.correctors import Inject
from zopde.seeding import noise_seeds
from zopde.studies import limits
from zopde.studies.correct.labels import LABELS, Label
from zopde.studies.correct.reference import Reference
from zopde.studies.run import Trainings
from zopde.training import Updating, Validation
from zopde.training.validation import UNWATCHED

LOOKED_AT = 16  # windows of the validation, at the most: each look steps them all


@dataclass(frozen=True)
class WeightCut:
    """Network, solver and loss are one black box; single weights are moved.

    A probe moves a weight by `mu`, in the units of the weights; with `mu_relative`, `mu` is in
    units of each tensor's root mean square, see `relative_mu`. A share `sparsity` of the weights
    is NOT probed: a random mask is drawn every `resample`. `score` shares its weights out over the
    layers, once, on the first batch: "none" (uniformly), or the ratios that "random", "magnitude",
    "grasp" or "zo-grasp" (from `score_directions` directions) gives. `chunk` is how many probes
    share a pass; 0 finds out when the run starts. Two runs agree bit for bit where it is the same.
    """

    mu: limits.Difference = 1e-3  # A probe moves a weight by so much.
    mu_relative: bool = False  # Whether `mu` counts in the tensor's root mean square.
    scheme: Literal["forward", "central"] = "forward"  # Which difference is taken.
    sparsity: limits.Share = 0.9  # This share of the weights is not probed.
    # How layers share the probed weights.
    score: Literal["none", "random", "magnitude", "grasp", "zo-grasp"] = "none"
    score_directions: limits.Count = 192  # Random directions of "zo-grasp".
    resample: limits.Length = "10 iterations"  # So long a mask is kept.
    chunk: limits.Whole = 0  # Probes that share a pass; 0 measures the best.

    @property
    def sides(self) -> int:
        """Probes of a weight."""
        return 2 if self.scheme == "central" else 1


@dataclass(frozen=True)
class InterfaceCut:
    """The solver alone is the black box; entries of its state are moved.

    `way` says how the solver's vector-Jacobian product is measured: "auto" (the run chooses one of
    coloured, bank and tangent when it begins, by their solver steps, and keeps to it; see
    docs/which-cut.md), "coloured" (for local
    solvers: entries whose responses cannot overlap share a probe; `radius` in cells along each
    axis, [] measures it, and `allow_bias` accepts one that the solver's step leaves), "regressed"
    (as coloured, but every probe moves all entries, and least squares tell them apart: for solvers
    with noise, see `zopde.RegressedPullback`), "dense"
    (every entry by itself), "random" (the identity, corrected along so many `directions`, see
    `zopde.CorrectedPullback`), "tangent" (a network learns the derivative from at most `budget`
    solver steps, until its error on pairs that were held out is `target`; `width` channels, `fit`
    iterations; see `zopde.tangent.Tangent`), "bank" (Jacobians are measured once
    at `snapshots` states of the training data and found again by `lookup`, see
    `zopde.BankPullback`), "identity" (not at all: the gradient is passed on as it is, see
    `zopde.IdentityPullback`). A bank that would take more than `limit_gib` is refused.
    Every `watch_every` iterations (0: never) one product of a bank, a tangent or the regressed way,
    drawn at random, is compared with the solver, see `zopde.interface.Watch`. Where the cosine is
    below `watch_below`, or a tangent's relative error above `watch_error`, the tangent is
    refitted at that state, and if its error there is still above `stop_error`, `fallback` serves,
    or the run ends. With a bank, the state becomes a snapshot, up to `more_snapshots` of them;
    after that, and with the regressed way at once, `fallback` serves until a later look finds
    agreement. A product of the coloured way is compared as often, and its radius grows where it is
    wrong. The steps of these looks are counted apart.
    `mu` is in standard deviations of the training data, `mu_of` each channel by itself; "mean",
    their root mean square over the channels, is for runs of before. A solver call takes at most
    `states` states.

    `labels` holds what one label has otherwise, in a table of its own:
    `[interface.labels.ZO-bank]` with `snapshots = 6`, for instance.
    """

    # How the product with the derivative of a step is got.
    way: Literal[
        "auto", "coloured", "regressed", "dense", "bank", "random", "identity", "tangent"
    ] = "auto"
    mu: limits.Difference = 1e-3  # A probe moves an entry by so many standard deviations.
    mu_of: Literal["channel", "mean"] = "channel"  # Whether these are the channel's own.
    scheme: Literal["forward", "central"] = "forward"  # Which difference is taken.
    # A step reaches so many cells along each axis; [] measures it.
    radius: tuple[limits.Whole, ...] = ()
    allow_bias: bool = False  # Whether a step may reach farther than `radius`.
    directions: limits.Count = 64  # The way random asks along so many.
    snapshots: limits.Count = 10  # A bank measures so many Jacobians.
    more_snapshots: limits.Whole = 0  # The watch may add so many.
    budget: limits.Count = 1280  # A tangent takes at most so many solver steps.
    target: limits.Positive = 0.03  # A tangent with this error is good enough.
    width: limits.Count = 16  # Channels of a tangent.
    fit: limits.Count = 400  # Iterations in which a tangent is fitted.
    watch_error: limits.Positive = 0.5  # Above this error a tangent is fitted again.
    stop_error: limits.Positive = 0.7  # Above this error, after that, `fallback` serves.
    lookup: Literal["nearest", "fitted"] = "fitted"  # How a bank finds its Jacobians.
    watch_every: limits.Whole = 10  # Iterations from one look to the next; 0 never looks.
    watch_below: limits.NotNegative = 0.9  # Below this cosine a product is mended.
    fallback: Literal["none", "dense", "coloured"] = "none"  # What serves where mending fails.
    limit_gib: limits.Positive = 4.0  # A larger bank is refused.
    states: limits.Count = 512  # A solver call takes at most so many states.
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)  # What one label has otherwise.

    @property
    def sides(self) -> int:
        """Probes of an entry."""
        return 2 if self.scheme == "central" else 1

    def hears_above(self, noise: float) -> bool:
        """Whether a probe moves a state by ten times a noise, in standard deviations."""
        return 10 * noise <= self.mu


@dataclass(frozen=True)
class EnsembleCut:
    """The weights of many networks are moved by what these predict: the labels EKI and ETKI.

    `length` replaces `training.length`: an iteration unrolls each of the `members`, and their mean.
    `spread` is in units of each tensor's root mean square. See `zopde.training.EnsembleKalman`.
    """

    length: limits.Length = "20 iterations"  # How long they are trained.
    members: limits.Members = 100  # Networks of an ensemble.
    spread: limits.Positive = 0.3  # So much the members differ at first.
    noise: limits.NotNegative = 0.0  # Of the data, in standard deviations; 0: as the misfits say.
    inflation: limits.Inflation = 1.0  # An update's deviations are made larger by this factor.


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
        values = self.train.states if variable == "state" else self.train.forcing
        assert values is not None, "no forcing, no influence of it"
        if not bool(self.train.whole.all()):
            values = values[self.train.whole][None]
        return self.train.grid.fluid_values(values).transpose(0, 2).flatten(1)

    def scale_of(self, variable: Variable, cut: InterfaceCut) -> Tensor:
        """(channel,), what the `mu` of a cut is in units of."""
        numbers = self._numbers(variable)
        if cut.mu_of == "channel":
            return channel_scale(numbers, cut.mu)
        scales = self.scale if variable == "state" else self.train.forcing_scale()
        return scales.square().mean().sqrt().expand(len(numbers))

    def scales(self, cut: InterfaceCut) -> dict[Variable, Tensor]:
        """The same of every input."""
        return {variable: self.scale_of(variable, cut) for variable in self.variables}

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
        data, stepped = self.train, self.stepped.flatten(0, 1)
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
    look_every: int = 0  # iterations from one look at the gradient's noise to the next; 0: none

    def windows(self, problem: Problem, seed: int) -> Windows:
        """The stretches of reference data, shuffled by the seed."""
        return Windows(problem.train, problem.later, self.unroll, self.batch, seed, problem.every)


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
    weights: WeightCut  # the weight cut
    interface: InterfaceCut  # the interface cut, for all labels
    cuts: Mapping[str, InterfaceCut]  # label -> its interface cut
    ensemble: EnsembleCut  # the cut of EKI and ETKI
    ensemble_iterations: int  # updates of these
    drop: bool  # whether failed steps are left out
    bear: bool  # whether a rollout bears a step that fails again and again
    jacobians: Path  # where the Jacobians of banks lie, for every run with this solver and data
    rollout_steps: int  # steps of an unseen run that is planned
    metrics: Mapping[str, Loss] = field(default_factory=dict)  # the user's own, of rollouts
    split: str = ""  # how one long run was split; "" where there are several
    to_make: Reference | None = None  # reference data that have to be made first, in a dry run
    rollout_seconds: float = 0.0  # of the unseen runs, in a dry run
    chance: float = 0.0  # deviations by which answers of a random solver without a seed differ
    checking: int = 0  # solver steps in which the solver was checked before the training
    validate_every: int = 20  # iterations from one look at the validation to the next
    patience: int = 0  # looks without a better one that end a training; 0: none do
    looked_at: int = 0  # windows of a look; 0 where there is no validation

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
        seeds = noise_seeds(seed, at, window.unroll) if seedable(solver) else ()
        what = problem.scale, problem.injection, seeds, schedule.loss, schedule.nudge
        return UnrolledObjective(solver, window, *what)

    def validation(self) -> Validation:
        """Looks at windows that no training sees, as long as its own, and by its loss."""
        problem, held, every = self.problem, self.problem.held, self.problem.every
        if held is None:
            return UNWATCHED
        counter = CountedSolver(Dropping(problem.solver) if self.bear else problem.solver)
        starts = held.states[:, : held.steps + 1 - every]
        windows = Windows(held, starts, self.training.unroll, 1, 0, every)
        window = replace(windows.spread(LOOKED_AT), stepped=None)
        what = window, problem.scale, problem.injection, noise_seeds(0, 0, window.unroll)
        objective = UnrolledObjective(counter, *what, self.training.loss)

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
