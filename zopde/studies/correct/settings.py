"""What a correction run is made of: every setting, its unit and its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from zopde.blackbox import Apart, BlackBox, Dropping, Retrying, Store, Stored
from zopde.contracts import Solver
from zopde.errors import InputError
from zopde.files import read_toml
from zopde.hybrid import INJECTIONS
from zopde.hybrid.losses import LOSSES
from zopde.studies import limits
from zopde.studies.correct.cuts import (
    CorrectedCut,
    EmulatorCut,
    EnsembleCut,
    EvolutionCut,
    ForwardCut,
    InterfaceCut,
    WeightCut,
)
from zopde.studies.correct.labels import LABELS, check_injection, check_labels, check_squares
from zopde.studies.correct.network import CorrectorSettings
from zopde.studies.correct.push import PushSettings
from zopde.studies.folder import look_up
from zopde.studies.settings import ProbeSettings, Tree, as_tree, build, choices, merge
from zopde.training import Optimise
from zopde.validate import check_choice

PRESETS = ("quick", "every-step", "paper")
"""What `load_config` finds in the package, by name."""


@dataclass(frozen=True)
class SolverSettings:
    """The coarse solver: `spec` as `zopde solvers` names it, and its class's options."""

    spec: limits.Text = "burgers"  # A name of `zopde solvers`, or a solver of your own.
    options: dict[str, Any] = field(default_factory=dict)  # What its class is given.


@dataclass(frozen=True)
class DataSettings:
    """Reference data: cells per side of both grids, and how many runs of how many steps.

    `path` is the file, or several: a pattern such as "run*.nc", or a list; "" means
    <solver>-<fine>-<coarse>-seed<seed>.nc beside the run folder. `dims` and `names` bring the dims
    and the variables of a file to the grid's names: {lat = "y"}, {T2 = "temperature"}. Of one long
    run the last fifth is for the test, whatever `train` and `test` are, and a tenth before it for
    any `validation`. `skip` steps pass before the first kept state. A `coarse` of [] is that of the
    solver and, for one that makes its own data on any grid, 32 x 32.
    """

    path: limits.Files = ""  # The data files; with "" one beside the run folder is made.
    dims: dict[str, limits.Text] = field(default_factory=dict)  # The grid's name for a dim.
    names: dict[str, limits.Text] = field(default_factory=dict)  # The grid's name for a variable.
    fine: tuple[limits.Count, ...] = (128, 128)  # Cells of the reference.
    coarse: tuple[limits.Count, ...] = ()  # Cells of the solver; [] leaves it its own.
    skip: limits.Whole = 30  # So many steps pass before the first state that is kept.
    steps: limits.Count = 200  # So many steps of a simulation are kept.
    train: limits.Count = 10  # So many simulations are learned from.
    test: limits.Count = 5  # So many simulations, the last ones, are unseen.
    # Whether states may be NaN where nothing was measured; windows start at whole ones alone.
    partial: bool = False
    # So many of `train`, the last ones, only choose which weights are kept.
    validation: limits.Whole = 0
    seed: limits.Seed = 0  # It draws the scenarios.


@dataclass(frozen=True)
class NonSettings:
    """The NON stage, one step on stored data, from which labels start where init = "non".

    `batch` counts windows of one step.
    """

    length: limits.LengthOrNone = "600 iterations"  # How long this stage lasts.
    batch: limits.Count = 16  # Windows of an iteration.
    lr: limits.Rate = 1e-2  # The learning rate at its highest.
    warmup: limits.Whole = 10  # The rate rises for so many iterations, then it falls.


@dataclass(frozen=True)
class TrainingSettings:
    """The stage in which the labels differ.

    `batch` windows of `unroll` corrected steps per iteration (NON: batch * unroll windows of
    one step, as many reference states; PUSH: see `[push]`). `init`: "non" or "scratch".
    `loss` judges the windows: "squares" (of every cell at every step, in standard deviations; see
    `zopde.UnrolledObjective`), "relative", "last", "moments", "spectrum" or "sensors" (see
    `zopde.hybrid`), or your own function or class, "package.module:name" or "file.py:name", as
    `zopde.hybrid.Loss` says. `loss_options` are its arguments: {positions = [[0.5, 0.5]]}. NON
    and PUSH, which learn single steps, keep to squares.
    With `data.validation`, the same loss of windows of `unroll` steps is looked at every
    `validate_every` iterations, for NON as well: the weights that did best are kept. After
    `patience` looks without a better one the training ends.
    `nudge` is for chaotic systems, whose gradients explode over many steps: within a window every
    state is pulled towards the reference, u + nudge (r - u), after it was judged. Every
    `look_every` iterations the signal and the noise of a gradient through the solver are measured
    (signal.csv), and an estimated gradient is compared with the exact one (gradient.csv), in solver
    steps that are counted as checking; see docs/howto/statistics.md and docs/gradient-right.md.
    """

    length: limits.Length = "200 iterations"  # How long this stage lasts.
    batch: limits.Count = 4  # Windows of an iteration.
    unroll: limits.Count = 8  # Corrected steps of a window.
    init: Literal["non", "scratch"] = "non"  # Weights begin as NON left them, or anew.
    optimizer: Literal["adam", "sgd"] = "adam"  # How a gradient becomes an update.
    lr: limits.Rate = 3e-3  # The learning rate at its highest.
    warmup: limits.Whole = 10  # The rate rises for so many iterations, then it falls.
    clip: limits.NotNegative = 0.0  # A longer gradient is cut to this; 0 leaves all.
    weight_decay: limits.NotNegative = 0.0  # The factor of an L2 penalty.
    loss: limits.Text = "squares"  # What judges a window.
    loss_options: dict[str, Any] = field(default_factory=dict)  # Its arguments.
    validate_every: limits.Count = 20  # Iterations from one look at the validation to the next.
    patience: limits.Whole = 0  # So many looks without a better one end it; 0: never.
    nudge: limits.Share = 0.0  # A step ends so much nearer to the reference; 0 leaves it free.
    look_every: limits.Whole = 100  # Iterations between looks at a gradient; 0: none.

    @property
    def optimise(self) -> Optimise:
        """How a gradient becomes an update."""
        return Optimise(self.optimizer, self.lr, self.warmup, self.clip, self.weight_decay)

    def __post_init__(self) -> None:
        if ":" not in self.loss:
            check_choice("training.loss", self.loss, ["squares", *LOSSES, "file.py:name"])


@dataclass(frozen=True)
class RunSettings(ProbeSettings):
    """Which labels, which seeds, where. `checkpoint_seconds`: time between checkpoints.

    Zeroth-order probes are answered by `workers` processes of `threads` threads each, with the
    same numbers however many they are; 0: in this process. `executor` sends them elsewhere:
    "dask" (a local cluster of `workers`), "dask://host:port" (a running one, which finds the
    folder `scratch` on every machine; "" is the temporary folder).

    `failures`: a solver step that fails ends the run ("raise"), is asked for again up to `retries`
    times before it does ("retry"), or is left out after that ("drop"). Where more than a share
    `failure_limit` of the steps fail, the run ends in any case; --resume goes on. `apart` runs the
    solver in a process of its own beside each that asks, so that a crash, or a step of more than
    `timeout` seconds (0: any), is a failed step. `store` is a file that keeps every answer, at
    most `store_gib`, so that nothing is asked twice; for solvers that take long.

    `metrics` are measures of your own, functions as `zopde.hybrid.Loss` describes one: a column
    each in the second table, of the rollouts of the unseen runs. `pictures` are pictures of your
    own, functions as `zopde.studies.correct.Picture` describes one: of the unseen run that the
    other pictures show, kept in the run's folder and on its page.
    """

    labels: tuple[str, ...] = ("SRC", "NON", "NOG", "ZO-weights", "SOL")  # The rows of the table.
    dtype: Literal["float32", "float64"] = "float32"  # The precision of states and weights.
    metrics: tuple[limits.Text, ...] = ()  # Own measures of rollouts, each a "file.py:name".
    pictures: tuple[limits.Text, ...] = ()  # Own pictures of a rollout, each a "file.py:name".
    checkpoint_seconds: limits.Positive = 10.0  # Time from one checkpoint to the next.
    solver_steps: limits.Whole = 0  # After so many, trainings pause; a larger one goes on; 0: any.
    failures: Literal["raise", "retry", "drop"] = "raise"  # What follows a failed step.
    retries: limits.Whole = 2  # A failed step is repeated so often.
    failure_limit: limits.PositiveShare = 0.25  # If more steps fail, the run ends.
    apart: bool = False  # Whether the solver has a process of its own.
    timeout: limits.TimeoutOrNone = 0.0  # Seconds that a step may take; 0 is any time.
    store: limits.Text = ""  # A file that keeps all answers; "" keeps none.
    store_gib: limits.Positive = 10.0  # It grows no larger than this.

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.metrics:
            if ":" not in name:
                check_choice("run.metrics", name, [*LOSSES, "file.py:name"])

    def guarded(self, solver: Solver, identity: str = "") -> Solver:
        """The user's solver as a run steps it, from the inside out: apart, checked, kept, retried.

        Who the solver is, `identity`, tells the store.
        """
        box: Solver = BlackBox(Apart(solver, self.timeout or None) if self.apart else solver)
        if self.store:
            box = Stored(box, Store(Path(self.store), self.store_gib), identity)
        box = Retrying(box, 0 if self.failures == "raise" else self.retries, self.failure_limit)
        return Dropping(box) if self.failures == "drop" else box


@dataclass(frozen=True)
class CorrectionConfig:
    """All settings of a correction run, checked when it is built.

    They are the tables of config.toml: `solver`, `data`, `corrector`, `non`, `training`, `push`,
    `zo`, `interface`, `emu`, `cv`, `fg`, `eki`, `es` and `run`.

    Raises:
        InputError: If a value is outside its legal range.
    """

    solver: SolverSettings = field(default_factory=SolverSettings)
    data: DataSettings = field(default_factory=DataSettings)
    corrector: CorrectorSettings = field(default_factory=CorrectorSettings)
    non: NonSettings = field(default_factory=NonSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    push: PushSettings = field(default_factory=PushSettings)
    zo: WeightCut = field(default_factory=WeightCut)
    interface: InterfaceCut = field(default_factory=InterfaceCut)
    emu: EmulatorCut = field(default_factory=EmulatorCut)
    cv: CorrectedCut = field(default_factory=CorrectedCut)
    fg: ForwardCut = field(default_factory=ForwardCut)
    eki: EnsembleCut = field(default_factory=EnsembleCut)
    es: EvolutionCut = field(default_factory=EvolutionCut)
    run: RunSettings = field(default_factory=RunSettings)

    RENAMED = (
        ("interface.kind", "interface.way"),
        ("interface.check_every", "interface.watch_every"),
    )

    def __post_init__(self) -> None:
        check_labels(self.run.labels)
        check_squares(self.training.loss, self.run.labels)
        if self.run.timeout and not self.run.apart:
            raise InputError(
                "run.timeout",
                got=self.run.timeout,
                expected="0 where the solver runs in this process",
                remedy="add run.apart=true, or use the solver's own time-out",
            )
        self.eki.check(self.run.labels)
        if "PUSH" in self.run.labels:
            self.push.check(self.training.unroll, self.corrector.history)
        if self.data.validation >= self.data.train and not self.data.path:  # one run has a tenth
            raise InputError(
                "data.validation",
                got=self.data.validation,
                expected=f"less than data.train = {self.data.train}, of which it is a part",
            )
        if self.training.patience and not self.data.validation:
            raise InputError(
                "training.patience",
                got=f"{self.training.patience}, and nothing to look at",
                expected="some data.validation",
                remedy="--set data.validation=2",
            )
        check_injection(self.corrector.inject, self.run.labels, self.training.init)
        for label in {*self.run.labels, *self.interface.labels}:
            self.cut_of(label)

    def cut_of(self, label: str) -> InterfaceCut | None:
        """How a label passes the solver: `[interface]`, and over it the label's own table."""
        check_choice("interface.labels", label, LABELS)
        way = LABELS[label].way
        own = self.interface.labels.get(label, {})
        if not way:
            if own:
                raise InputError(
                    f"interface.labels.{label}",
                    got="a table for a label that takes no derivative at the interface",
                    expected=f"one of {', '.join(k for k, v in LABELS.items() if v.way)}",
                )
            return None
        fixed = {} if way == "as set" else {"way": way}
        if fixed and own.get("way", way) != way:
            raise InputError(
                f"interface.labels.{label}.way",
                got=repr(own["way"]),
                expected=f"{way!r}, which the label stands for, or nothing",
                remedy="take another label: ZO-interface has any way",
            )
        shared = {**as_tree(self.interface), "labels": {}}
        if label == "CV":
            shared |= {"around": self.cv.base, "directions": self.cv.directions}
        return build(InterfaceCut, {**shared, **own, **fixed})

    @staticmethod
    def upgrade(tree: Tree) -> Tree:
        """The record of a run of an earlier version in today's words."""
        table = dict(tree.get("interface", {}))
        if "kind" in table:
            table["way"] = table.pop("kind")
        table.setdefault("way", "coloured")  # what such a run did where nothing was said
        if table["way"] == "amortised":
            table["way"] = "bank"
        labels = tree.get("run", {}).get("labels", [])
        if "mu_of" not in table and any(LABELS[name].way for name in labels if name in LABELS):
            table["mu_of"] = "mean"  # what such a run meant by mu
        if "check_every" in table or "near" in table:  # a bank had two ways to be compared
            own = [one.get("watch_every") for one in (table, *table.get("labels", {}).values())]
            if not any(own):  # what it saw then had no consequences
                table["watch_every"] = table.pop("check_every", 10)
                if table.get("more_snapshots") or table.get("fallback", "none") != "none":
                    table["watch_below"] = 0.0
        for name, default in (("near", []), ("rank", 64)):  # of compressed banks
            if table.get(name) == default:
                del table[name]
        return {**tree, "interface": table}

    @property
    def window(self) -> int:
        """Solver steps of a window."""
        return self.training.unroll * self.corrector.every

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of `run.dtype`."""
        return torch.float64 if self.run.dtype == "float64" else torch.float32


def load_config(
    preset: str = "quick",
    file: Path | None = None,
    changes: Sequence[str] = (),
    tables: Mapping[str, Any] | None = None,
) -> CorrectionConfig:
    """Read the settings of a correction run: a preset, and over it what is chosen.

    A solver named in what is laid over may have presets of its own, `presets/<solver>/`; the
    others share those in `presets/`.

    Args:
        preset: "quick", "paper", or another that the solver has, embedded in the package.
        file: TOML file laid over the preset.
        changes: Texts "table.key=value" laid over that.
        tables: Nested dicts laid over all.

    Returns:
        The checked settings.

    Raises:
        InputError: On an unknown preset or key (naming the nearest), a wrong type or value.
    """
    return build(CorrectionConfig, settings_over(preset, choices(file, changes, tables)))


def settings_over(preset: str, chosen: Mapping[str, Any]) -> Tree:
    """A preset, and over it what is chosen, unchecked; see `load_config`."""
    check_choice("preset", preset, PRESETS)
    tree = read_toml(_preset_file(preset, chosen))
    if look_up(chosen, "solver.spec") not in (None, tree["solver"]["spec"]):
        del tree["data"]["coarse"]  # another solver may have a grid of its own
        tree.pop("interface", None)  # and reach as far as it does
    if look_up(chosen, "corrector.kind") not in (None, tree["corrector"].get("kind")):
        tree["corrector"].pop("sizes", None)  # another network has sizes of its own
    return merge(_fit_preset(tree, chosen), chosen)


def _fit_preset(preset: Tree, chosen: Mapping[str, Any]) -> Tree:
    """A preset's labels and start for the injection that is chosen over it.

    Labels without a gradient are left out, and so is the scratch start of a label that starts
    from scratch anyway. What a user chooses by name is not touched: `check_injection` refuses it.
    """
    inject = look_up(chosen, "corrector.inject")
    if str(inject) not in INJECTIONS or not INJECTIONS[str(inject)].through_solver:
        return preset
    labels = [
        label
        for label in preset["run"]["labels"]
        if LABELS[label].through_solver and not LABELS[label].always_scratch
    ]
    return merge(preset, {"run": {"labels": labels}, "training": {"init": "scratch"}})


def presets_of(spec: str) -> list[str]:
    """The presets of a solver by name: its own where it has some, otherwise the common ones."""
    return sorted((path.stem for path in _folder_of(spec).glob("*.toml")), key=PRESETS.index)


def _folder_of(spec: str) -> Path:
    """The folder of a solver's presets: `presets/<solver>/`, or the common one."""
    common = Path(str(files("zopde.studies.correct") / "presets"))
    own = {entry.name: entry for entry in common.iterdir() if entry.is_dir()}
    return own.get(spec, common)


def _preset_file(preset: str, chosen: Mapping[str, Any]) -> Path:
    """The file of a preset for the chosen solver."""
    spec = str(look_up(chosen, "solver.spec"))
    known = presets_of(spec)
    if preset not in known:
        expected = f"of the solver {spec!r} only {', '.join(known)}"
        raise InputError("preset", got=repr(preset), expected=expected)
    return _folder_of(spec) / f"{preset}.toml"
