"""From the settings of a correction to the objects that train: here the settings end."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from zopde import __version__
from zopde.blackbox import Apart, BlackBox, Dropping, Retrying, Store, Stored
from zopde.contracts import Differentiable, ReferenceSolver, Solver
from zopde.data import (
    Trajectories,
    first_steps,
)
from zopde.errors import InputError, first_line
from zopde.files import identity_of
from zopde.nets import Normalised, build_corrector
from zopde.nets.correctors import Inject
from zopde.plugins import load_solver
from zopde.progress import Progress, Silent
from zopde.seeding import generator, global_stream
from zopde.studies.correct.cut import check_suits
from zopde.studies.correct.labels import check_forcing, injection_note
from zopde.studies.correct.problem import Opened, Problem, Schedule
from zopde.studies.correct.reference import Reference, check_steps
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.settings import iterations_in, read_toml
from zopde.training import Optimise

_STAND_IN_SECONDS = 20.0
_SAMPLE_STEPS = 4


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
    reference = reference_of(config, solver, root.parent)
    data = reference.load_or_make(progress)
    if injection_note(config.corrector.inject):
        progress.note(injection_note(config.corrector.inject))
    counts = config.data.train, config.data.test
    jacobians = _shared_folder(reference.path, root)
    return _opened(config, reference, data, counts, data.steps, jacobians, progress)


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
    solver = open_solver(config)
    config.workers().check_solver(solver)
    reference = reference_of(config, solver, root.parent)
    train, test, training = config.data.train, config.data.test, config.training
    to_make = None
    if reference.path.exists() or not reference.can_be_made:
        data = reference.load()
        reference.check(data, train + test, training.unroll)
    else:
        check_steps(config.data.steps, training.unroll)
        data = reference.stand_in(training.batch + 1, training.unroll + 2, _STAND_IN_SECONDS)
        to_make = reference
    counts, steps = (data.simulations - 1, 1), config.data.steps
    opened = _opened(config, reference, data, counts, steps, Path(), Silent())
    return replace(opened, to_make=to_make)


def open_few(config: CorrectionConfig, progress: Progress) -> tuple[Opened, str]:
    """As few simulations as a batch has windows, and where they come from; nothing is written."""
    config = replace(config, run=replace(config.run, store=""))
    solver, train = open_solver(config), config.training.batch
    if config.data.path:
        reference = reference_of(config, solver, Path())
        data = reference.load()
        train, source = min(train, max(1, data.simulations - 1)), config.data.path
    else:
        steps = config.training.unroll + 2
        config = replace(config, data=replace(config.data, train=train, test=1, steps=steps))
        reference = reference_of(config, solver, Path())
        data, source = reference.make(progress), f"{train} short runs of the reference"
    config = replace(config, data=replace(config.data, train=train, test=1))
    opened = _opened(config, reference, data, (train, 1), data.steps, Path(), progress)
    return opened, source


def _opened(
    config: CorrectionConfig,
    reference: Reference,
    data: Trajectories,
    counts: tuple[int, int],
    steps: int,
    jacobians: Path,
    progress: Progress,
) -> Opened:
    """Split the simulations, the last ones unseen, and step every training state once.

    Args:
        config: The settings.
        reference: Solver and data.
        data: Reference data, or what stands in for it.
        counts: Simulations of it to learn from, and unseen ones.
        steps: Of a simulation of the data that are planned; an epoch is counted by them.
        jacobians: Folder of the Jacobians of banks.
        progress: Who is watching.
    """
    solver = reference.solver
    reference.check(data, sum(counts), config.training.unroll)
    identity = solver_identity(config.solver.spec, config.solver.options, solver)
    black_box = _guarded(config, solver, identity)
    data = data.to(config.run.device, config.dtype)
    problem = _problem(black_box, solver, config.corrector.inject, data, counts, progress)
    corrector, non, training = config.corrector, config.non, config.training

    def schedule(unroll: int, batch: int, length: str, optimise: Optimise) -> Schedule:
        windows = config.data.train * (steps - unroll + 1)
        per_epoch = max(1, windows // min(batch, windows))
        return Schedule(unroll, batch, iterations_in(length, per_epoch), per_epoch, optimise)

    new_network = partial(_new_network, problem, corrector.kind, corrector.sizes, corrector.padding)
    new_network(config.run.seeds[0])  # sizes that will not do must be known now
    opened = Opened(
        problem,
        solver,
        config.solver.spec,
        f"{identity} {config.run.dtype}",
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
    check_suits(opened)
    return opened


def _problem(
    black_box: Solver,
    solver: Solver,
    inject: Inject,
    data: Trajectories,
    counts: tuple[int, int],
    progress: Progress,
) -> Problem:
    train, test = counts
    seen = data.take(slice(0, train))
    with progress.stage("coarse steps of the stored data", train * data.steps) as advance:
        # A stored state cannot be left out, so it is stepped again even where runs drop.
        stepped = first_steps(Retrying(black_box), seen, progress=advance)
    twin = solver.differentiable_twin() if isinstance(solver, Differentiable) else None
    return Problem(black_box, twin, seen, data.take(slice(train, train + test)), stepped, inject)


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


def reference_of(config: CorrectionConfig, solver: Solver, folder: Path) -> Reference:
    """The reference data: in `data.path`, or in a file in `folder` whose name tells what it holds.

    Args:
        config: The settings.
        solver: The coarse solver.
        folder: Where data lie that have no path.
    """
    data, spec = config.data, config.solver.spec
    sizes = "-".join("x".join(map(str, shape)) for shape in (data.fine, data.coarse))
    name = f"{Path(spec.replace(':', '-')).name}-{sizes}-seed{data.seed}.nc"
    return Reference(
        spec,
        solver,
        Path(data.path) if data.path else folder / name,
        data.fine,
        data.coarse,
        data.skip,
        data.steps,
        data.train,
        data.test,
        data.seed,
        config.run.device,
        config.dtype,
    )


def _guarded(config: CorrectionConfig, solver: Solver, identity: str) -> Solver:
    """The user's solver as a run steps it, from the inside out.

    In a process of its own (`run.apart`); checked; answers kept (`run.store`); what failed is
    stepped again (`run.retries`) and then raised or left out (`run.failures`).
    """
    run = config.run
    times = 0 if run.failures == "raise" else run.retries
    guarded: Solver = BlackBox(Apart(solver, run.timeout or None) if run.apart else solver)
    if run.store:
        store = Store(Path(run.store), run.store_gib)
        guarded = Stored(guarded, store, identity)
    guarded = Retrying(guarded, times, run.failure_limit)
    return Dropping(guarded) if run.failures == "drop" else guarded


def solver_identity(spec: str, options: dict[str, Any], solver: Solver) -> str:
    """A digest of everything but its input that decides a solver's answer.

    The spec, the options, the grid, the source file of its class, and the content of every file
    that the spec or an option names.
    """
    plain = [spec, options, repr(solver.grid), getattr(solver, "options", {}), __version__]
    return identity_of(
        json.dumps(plain, sort_keys=True, default=str), _files(spec, options, solver)
    )


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
    return identity_of(repr(solver.grid), dict.fromkeys(path.resolve() for path in files))


def _is_code(path: Path) -> bool:
    return path.suffix in {".py", ".so"} or os.access(path, os.X_OK)


def _new_network(
    problem: Problem,
    kind: Literal["conv", "residual"],
    sizes: dict[str, int],
    padding: str,
    seed: int,
) -> Normalised:
    grid, injection = problem.solver.grid, problem.injection
    if padding == "auto":
        padding = "periodic" if grid.boundary == "periodic" else "zero"
    inputs = len(grid.channels) + len(grid.forcing_channels)
    outputs = len(grid.channels if injection.adds_to == "state" else grid.forcing_channels)
    with global_stream(generator(seed, "weights")):
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
