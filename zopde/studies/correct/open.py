"""From the settings of a correction to the objects that train: here the settings end."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zopde import __version__
from zopde.blackbox import Apart, BlackBox, Dropping, Retrying, Store, Stored
from zopde.contracts import Differentiable, Downsampling, ReferenceSolver, Solver
from zopde.data import (
    Trajectories,
    Windows,
    first_steps,
    load_trajectories,
    save_trajectories,
    simulate,
)
from zopde.data.trajectories import Settings
from zopde.errors import InputError, first_line
from zopde.hybrid import INJECTIONS, Injection, UnrolledObjective, downsample
from zopde.interface.vjp import Variable
from zopde.nets import Normalised, build_corrector
from zopde.plugins import load_solver
from zopde.progress import Progress, Silent
from zopde.seeding import generator, noise_seeds
from zopde.studies.correct.cuts import InterfaceCut, WeightCut
from zopde.studies.correct.labels import LABELS, Label, check_forcing, injection_note
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.price import median_seconds
from zopde.studies.settings import iterations_in, read_toml
from zopde.studies.workers import Workers
from zopde.training import Optimise

_STAND_IN_SECONDS = 20.0
_SAMPLE_STEPS = 4


@dataclass(frozen=True)
class Problem:
    """What every label shares.

    Args:
        solver: The coarse black box.
        twin: Its differentiable twin, for SOL alone; None where it has none.
        train: Reference data to learn from.
        test: Reference data of the unseen runs.
        stepped: The solver's answer to every training state; see `first_steps`.
        inject: Where the correction enters: "after", "before" or "forcing".
    """

    solver: Solver
    twin: Solver | None
    train: Trajectories
    test: Trajectories
    stepped: Tensor
    inject: str

    @property
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
        whole = hashlib.sha256()
        for part in (self.train, self.test):
            for values in (part.states, part.forcing):
                if values is not None:
                    whole.update(values.cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()


@dataclass(frozen=True)
class Schedule:
    """A stretch of training.

    Args:
        unroll: Corrected steps that the loss sees.
        batch: Windows side by side.
        iterations: Updates.
        per_epoch: Updates that make an epoch.
        optimise: How gradients become updates.
    """

    unroll: int
    batch: int
    iterations: int
    per_epoch: int
    optimise: Optimise

    def windows(self, problem: Problem, seed: int) -> Windows:
        """The stretches of reference data, shuffled by the seed."""
        return Windows(problem.train, problem.stepped, self.unroll, self.batch, seed)


@dataclass(frozen=True)
class DataToMake:
    """Reference data that nobody has made yet.

    Args:
        fine: The solver on the fine grid.
        simulations: How many.
        steps: Of each.
        seed: Draws them.
    """

    fine: ReferenceSolver
    simulations: int
    steps: int
    seed: int


@dataclass(frozen=True)
class Opened:
    """A correction that is ready to train.

    Args:
        problem: Solver and data.
        bare: The solver without anything round it; it may tell its vorticity.
        spec: The solver's name.
        identity: What decides the solver's answers, for those that are kept.
        content: A digest of the files that the solver is made of, wherever they lie.
        new_network: Seed -> an untrained corrector, the same for every label.
        kind: Of corrector.
        sizes: Of the corrector.
        start: NON on stored data, from which labels start.
        training: The stage in which the labels differ.
        from_scratch: Whether every label starts from scratch.
        weights: The weight cut.
        interface: The interface cut, for all labels.
        cuts: Label -> its interface cut.
        labels: Rows of the table.
        seeds: Of the trainings.
        workers: Who evaluates probes.
        every_seconds: Time between two checkpoints.
        drop: Whether failed steps are left out.
        bear: Whether a rollout bears a step that fails again and again.
        jacobians: Where the Jacobians of banks lie, for every run with this solver and data.
        rollout_steps: Steps of an unseen run that is planned.
        to_make: Reference data that have to be made first, in a dry run.
        rollout_seconds: Of the unseen runs, in a dry run.
    """

    problem: Problem
    bare: Solver
    spec: str
    identity: str
    content: str
    new_network: Callable[[int], Normalised]
    kind: str
    sizes: dict[str, int]
    start: Schedule
    training: Schedule
    from_scratch: bool
    weights: WeightCut
    interface: InterfaceCut
    cuts: Mapping[str, InterfaceCut]
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    workers: Workers
    every_seconds: float
    drop: bool
    bear: bool
    jacobians: Path
    rollout_steps: int
    to_make: DataToMake | None = None
    rollout_seconds: float = 0.0

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
        seeds = noise_seeds(seed, at, window.unroll)
        return UnrolledObjective(solver, window, self.problem.scale, self.problem.injection, seeds)

    def first_objective(self, solver: Solver, seed: int) -> UnrolledObjective:
        """The unrolled loss on a label's first batch."""
        return self.objective(self.training.windows(self.problem, seed), solver, seed, 0)


def open_correction(config: CorrectionConfig, root: Path, progress: Progress) -> Opened:
    """Load the data, or make and keep it where there is none, and build all that trains.

    Args:
        config: The settings.
        root: The run folder; data that are made lie beside it.
        progress: Who is watching.

    Raises:
        InputError: On settings or data that will not do.
        SolverError: If the solver fails on stored data.
    """
    solver = open_solver(config)
    config.workers().check_solver(solver)
    path = data_path(config, root.parent)
    if path.exists() or not isinstance(solver, ReferenceSolver):
        data = load_trajectories(path, solver.grid, wanted_settings(config, solver))
        progress.note(f"reference data: {path}")
    else:
        data = make_data(config, progress)
        save_trajectories(data, path)
        progress.note(f"reference data: made {path}")
    if injection_note(config.corrector.inject):
        progress.note(injection_note(config.corrector.inject))
    counts = config.data.train, config.data.test
    jacobians = _shared_folder(path, root)
    return opened_from(config, solver, data, counts, data.steps, jacobians, progress)


def open_sample(config: CorrectionConfig, root: Path, progress: Progress) -> Opened:
    """The same for a dry run: without reference data coarse runs stand in; nothing is written.

    Args:
        config: The run that is planned.
        root: The run folder; the data would lie beside it.
        progress: Who is watching.

    Raises:
        InputError: On settings or data that will not do.
    """
    # What comes from the store takes no time, and what goes there would be written.
    config = replace(config, run=replace(config.run, store=""))
    if injection_note(config.corrector.inject):
        progress.note(injection_note(config.corrector.inject))
    solver, path = open_solver(config), data_path(config, root.parent)
    config.workers().check_solver(solver)
    to_make = None
    if path.exists() or not isinstance(solver, ReferenceSolver):
        data = load_trajectories(path, solver.grid, wanted_settings(config, solver))
        _check_data(data, config.data.train + config.data.test, config.training.unroll)
    else:
        check_steps(config.data.steps, config.training.unroll)
        count, kept = config.training.batch + 1, config.training.unroll + 2
        data = stand_in_runs(config, solver, count, kept, _STAND_IN_SECONDS)
        to_make = DataToMake(
            solver.at(config.data.fine),
            config.data.train + config.data.test,
            config.data.skip + config.data.steps,
            config.data.seed,
        )
    counts = data.simulations - 1, 1
    opened = opened_from(config, solver, data, counts, config.data.steps, Path(), Silent())
    return replace(opened, to_make=to_make)


def open_few(config: CorrectionConfig, progress: Progress) -> tuple[Opened, str]:
    """As few simulations as a batch has windows, and where they come from; nothing is written."""
    config = replace(config, run=replace(config.run, store=""))
    solver, train = open_solver(config), config.training.batch
    if config.data.path:
        data = load_trajectories(
            Path(config.data.path), solver.grid, wanted_settings(config, solver)
        )
        train, source = min(train, max(1, data.simulations - 1)), config.data.path
    else:
        steps = config.training.unroll + 2
        config = replace(config, data=replace(config.data, train=train, test=1, steps=steps))
        data, source = make_data(config, progress), f"{train} short runs of the reference"
    config = replace(config, data=replace(config.data, train=train, test=1))
    return opened_from(config, solver, data, (train, 1), data.steps, Path(), progress), source


def stand_in_runs(
    config: CorrectionConfig, solver: ReferenceSolver, count: int, kept: int, seconds: float
) -> Trajectories:
    """Coarse runs as long as the data's, or as time allows; their last steps.

    How far a step reaches depends on how fast the flow is, so they must not end at the start.

    Args:
        config: The run that is planned.
        solver: The coarse solver.
        count: Runs.
        kept: Steps at their end that are kept.
        seconds: What they may take, about.
    """
    wanted = config.data.skip + config.data.steps - kept

    def run(skip: int, steps: int) -> Trajectories:
        draw = generator(config.data.seed, "data")
        return simulate(solver, lambda u: u, solver.grid, count, skip, steps, draw, config.dtype)

    seconds_a_step = median_seconds(lambda: run(0, _SAMPLE_STEPS)) / _SAMPLE_STEPS
    skip = max(2, min(wanted, int(seconds / seconds_a_step)))
    return replace(run(skip, kept), settings={"skip": skip})


def opened_from(
    config: CorrectionConfig,
    solver: Solver,
    data: Trajectories,
    counts: tuple[int, int],
    steps: int,
    jacobians: Path,
    progress: Progress,
) -> Opened:
    """Split the simulations, the last ones unseen, and step every training state once.

    Args:
        config: The settings.
        solver: The coarse solver.
        data: Reference data, or what stands in for it.
        counts: Simulations of it to learn from, and unseen ones.
        steps: Of a simulation of the data that are planned; an epoch is counted by them.
        jacobians: Folder of the Jacobians of banks.
        progress: Who is watching.
    """
    train, test = counts
    _check_data(data, train + test, config.training.unroll)
    data = data.to(config.run.device, config.dtype)
    seen, black_box = data.take(slice(0, train)), _guarded(config, solver)
    with progress.stage("coarse steps of the stored data", train * data.steps) as advance:
        # A stored state cannot be left out, so it is stepped again even where runs drop.
        stepped = first_steps(Retrying(black_box), seen, progress=advance)
    problem = Problem(
        black_box,
        solver.differentiable_twin() if isinstance(solver, Differentiable) else None,
        seen,
        data.take(slice(train, train + test)),
        stepped,
        config.corrector.inject,
    )
    corrector, non, training = config.corrector, config.non, config.training

    def schedule(unroll: int, batch: int, length: str, optimise: Optimise) -> Schedule:
        windows = config.data.train * (steps - unroll + 1)
        per_epoch = max(1, windows // min(batch, windows))
        return Schedule(unroll, batch, iterations_in(length, per_epoch), per_epoch, optimise)

    new_network = partial(_new_network, problem, corrector.kind, corrector.sizes, corrector.padding)
    new_network(config.run.seeds[0])  # sizes that will not do must be known now
    return Opened(
        problem,
        solver,
        config.solver.spec,
        f"{solver_identity(config, solver)} {config.run.dtype}",
        _content_of(config.solver.spec, solver),
        new_network,
        corrector.kind,
        corrector.sizes,
        schedule(1, non.batch, non.length, Optimise(lr=non.lr, warmup=non.warmup)),
        schedule(
            training.unroll,
            training.batch,
            training.length,
            Optimise(
                training.optimizer,
                training.lr,
                training.warmup,
                training.clip,
                training.weight_decay,
            ),
        ),
        training.init == "scratch",
        config.zo,
        config.interface,
        {label: cut for label in config.run.labels if (cut := config.cut_of(label))},
        config.run.labels,
        config.run.seeds,
        config.workers(),
        config.run.checkpoint_seconds,
        config.run.failures == "drop",
        config.run.failures != "raise",
        jacobians,
        config.data.steps,
    )


def open_solver(config: CorrectionConfig) -> Solver:
    """The solver; one that can change its resolution is put on `data.coarse`."""
    solver = load_solver(config.solver.spec, config.solver.options)
    if isinstance(solver, ReferenceSolver) and "shape" in config.solver.options:
        raise InputError(
            "solver.options.shape",
            got=config.solver.options["shape"],
            expected="the resolution in data.coarse",
        )
    check_forcing(config.corrector.inject, solver.grid)
    return solver.at(config.data.coarse) if isinstance(solver, ReferenceSolver) else solver


def data_path(config: CorrectionConfig, folder: Path) -> Path:
    """`data.path`, or a name beside the run folder that tells what is inside."""
    if config.data.path:
        return Path(config.data.path)
    data = config.data
    sizes = "-".join("x".join(map(str, shape)) for shape in (data.fine, data.coarse))
    name = Path(config.solver.spec.replace(":", "-")).name
    return folder / f"{name}-{sizes}-seed{data.seed}.nc"


def wanted_settings(config: CorrectionConfig, solver: Solver) -> Settings | None:
    """What a data file must record: everything that decides the reference data, in plain values.

    None for a solver that cannot make its own data.
    """
    if not isinstance(solver, ReferenceSolver):
        return None
    data = config.data
    return {
        "solver": config.solver.spec,
        "options": dict(solver.options),
        "fine": list(data.fine),
        "coarse": list(data.coarse),
        "skip": data.skip,
        "steps": data.steps,
        "simulations": data.train + data.test,
        "seed": data.seed,
        "dtype": config.run.dtype,
        "zopde_version": __version__,
    }


def make_data(config: CorrectionConfig, progress: Progress) -> Trajectories:
    """Simulate the reference on the fine grid and bring it to the coarse one.

    Raises:
        InputError: If the solver cannot make its own data.
    """
    solver = open_solver(config)
    if not isinstance(solver, ReferenceSolver):
        raise InputError(
            f"solver {config.solver.spec!r}",
            got="no `at` and `scenario` to make data with",
            expected="reference data in a NetCDF file",
            remedy="name it with --data, or give the solver both methods",
        )
    data = config.data

    def by_cells(fine: Tensor) -> Tensor:
        return downsample(fine, data.coarse)

    with progress.stage("reference data", data.skip + data.steps) as advance:
        made = simulate(
            solver.at(data.fine),
            solver.downsample if isinstance(solver, Downsampling) else by_cells,
            solver.grid,
            simulations=data.train + data.test,
            skip=data.skip,
            steps=data.steps,
            generator=generator(data.seed, "data"),
            dtype=config.dtype,
            device=config.run.device,
            progress=advance,
            coarse_forcing=by_cells,
        )
    return Trajectories(made.grid, made.states, made.forcing, wanted_settings(config, solver))


def _guarded(config: CorrectionConfig, solver: Solver) -> Solver:
    """The user's solver as a run steps it, from the inside out.

    In a process of its own (`run.apart`); checked; answers kept (`run.store`); what failed is
    stepped again (`run.retries`) and then raised or left out (`run.failures`).
    """
    run = config.run
    times = 0 if run.failures == "raise" else run.retries
    guarded: Solver = BlackBox(Apart(solver, run.timeout or None) if run.apart else solver)
    if run.store:
        store = Store(Path(run.store), run.store_gib)
        guarded = Stored(guarded, store, solver_identity(config, solver))
    guarded = Retrying(guarded, times, run.failure_limit)
    return Dropping(guarded) if run.failures == "drop" else guarded


def solver_identity(config: CorrectionConfig, solver: Solver) -> str:
    """A digest of everything but its input that decides a solver's answer.

    The spec, the options, the grid, the source file of its class, and the content of every file
    that the spec or an option names.
    """
    spec, options = config.solver.spec, config.solver.options
    whole = hashlib.blake2b(digest_size=16)
    plain = [spec, options, repr(solver.grid), getattr(solver, "options", {}), __version__]
    whole.update(json.dumps(plain, sort_keys=True, default=str).encode())
    for path in _files(spec, options, solver):
        whole.update(path.read_bytes())
    return whole.hexdigest()


def _files(spec: str, options: Mapping[str, Any], solver: Solver) -> list[Path]:
    named = [spec, spec.rpartition(":")[0], *(v for v in options.values() if isinstance(v, str))]
    with suppress(TypeError):  # a class of the interpreter's own has no file
        named.append(inspect.getsourcefile(type(solver)) or "")
    return [Path(name) for name in dict.fromkeys(named) if name and Path(name).is_file()]


def _content_of(spec: str, solver: Solver) -> str:
    """A digest of the code that a solver is made of, and of its grid; no path is in it."""
    files = _files(spec, {}, solver)
    if spec.endswith(".toml"):
        home = Path(spec).parent
        for value in read_toml(Path(spec)).values():
            names = value if isinstance(value, list) else [value]  # a command is a list of words
            inside = [_files(str(home / name), {}, solver) for name in names if type(name) is str]
            # Files that a solver writes, such as a log, may differ at a resumption; code may not.
            files += [path for paths in inside for path in paths if _is_code(path)]
    whole = hashlib.sha256(repr(solver.grid).encode())
    for path in dict.fromkeys(path.resolve() for path in files):
        whole.update(path.read_bytes())
    return whole.hexdigest()


def _is_code(path: Path) -> bool:
    return path.suffix in {".py", ".so"} or os.access(path, os.X_OK)


def _check_data(data: Trajectories, simulations: int, unroll: int) -> None:
    """Require as many simulations, and as long ones, as a run needs."""
    if data.simulations < simulations:
        raise InputError(
            "data",
            got=f"{data.simulations} simulations",
            expected=f"at least data.train + data.test = {simulations}",
        )
    check_steps(data.steps, unroll)


def check_steps(steps: int, unroll: int) -> None:
    """Require simulations of at least one window."""
    if steps < unroll:
        raise InputError(
            "data",
            got=f"{steps} steps in a run",
            expected=f"at least training.unroll = {unroll}",
        )


def _new_network(
    problem: Problem,
    kind: str,
    sizes: dict[str, int],
    padding: str,
    seed: int,
) -> Normalised:
    grid, injection = problem.solver.grid, problem.injection
    if padding == "auto":
        padding = "periodic" if grid.boundary == "periodic" else "zero"
    inputs = len(grid.channels) + len(grid.forcing_channels)
    outputs = len(grid.channels if injection.adds_to == "state" else grid.forcing_channels)
    # torch's initialisers read the global stream: set it from ours, and put it back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        try:
            body = build_corrector(
                kind,
                inputs,
                outputs,
                padding="periodic" if padding == "periodic" else "zero",
                sizes=sizes,
            )
            body(torch.zeros(1, inputs, *grid.shape))
        except (ValueError, RuntimeError) as error:
            raise InputError(
                "corrector.sizes",
                got=f"{sizes} ({first_line(error)})",
                expected=f"sizes of a {kind!r} corrector on {grid.shape} cells",
                remedy="such as --set corrector.sizes={}",
            ) from error
    forcing_scale = problem.train.forcing_scale()
    network = Normalised(body, problem.scale, forcing_scale, inject=problem.inject)
    return network.to(problem.train.states)


def _shared_folder(data: Path, root: Path) -> Path:
    """Beside the data file, or beside the run where that is not ours to write."""
    folder = data.parent if os.access(data.parent, os.W_OK) else root.parent
    return folder / f"{data.stem}.jacobians"
