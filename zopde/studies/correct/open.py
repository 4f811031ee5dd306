"""From the settings of a correction to the objects that train: here the settings end."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zopde.contracts import ReferenceSolver, Solver, seedable, seeded
from zopde.data import Trajectories
from zopde.data.deviations import means
from zopde.data.sources import data_files
from zopde.data.trajectories import recorded_settings
from zopde.errors import InputError, MistakeError, SolverError
from zopde.hybrid import INJECTIONS
from zopde.identity import content_of, content_of_code, files_of, solver_identity
from zopde.mesh import Mesh
from zopde.plugins import load_object, load_solver
from zopde.progress import Progress, Silent
from zopde.studies.correct.cut import check_suits
from zopde.studies.correct.imports import digest_of_files, imported_late, loaded
from zopde.studies.correct.labels import check_forcing
from zopde.studies.correct.loss import loss_of, metrics_of
from zopde.studies.correct.memory import habits_of
from zopde.studies.correct.pictures import pictures_of
from zopde.studies.correct.problem import Opened
from zopde.studies.correct.reference import Reference, on_cells
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.correct.stored import Planned, Stored, check_starts
from zopde.studies.model_file import named_network
from zopde.training import Optimise

_STAND_IN_SECONDS = 20.0
_COARSE = 32  # cells a side for a solver that makes its own data, where nothing else is said
_BORNE = 1e-4  # standard deviations that a memory may change in an answer: a tenth of a probe's


def open_correction(config: CorrectionConfig, root: Path, progress: Progress) -> Opened:
    """Load the data, or make them beside the run folder `root`, and build all that trains."""
    kind, loss = config.corrector.kind, config.training.loss
    # Loaded before the solver: its imports are not the solver's
    code = content_of_code(named_network(kind)) if ":" in kind else ""
    judge = content_of_code(load_object(loss, what="loss")) if ":" in loss else ""
    loss_of(loss, config.training.loss_options, torch.ones(1))  # before anything is simulated
    metrics_of(config.run.metrics, torch.ones(1))
    pictures_of(config.run.pictures)
    before = loaded()
    reference = _planned(config, root, progress)
    data = reference.load_or_make(progress)
    reference.check_unseen(data, config.window, progress, config.corrector.every)
    ours = os.access(reference.path.parent, os.W_OK)  # others' data may lie where nobody writes
    folder = reference.path.parent if ours else root.parent
    jacobians = folder / f"{reference.path.stem}.jacobians"
    opened = _opened(config, reference, data, data.steps, progress, jacobians)
    # Not from the store, which would answer in the solver's place
    asked = replace(config.run, store="").guarded(opened.bare)
    opened = replace(_checked(opened, asked, progress), code=code, judge=judge)
    opened = _with_late_files(opened, before, config.solver.options, config.run.store, progress)
    check_suits(opened)
    if opened.split:
        progress.note(opened.split)
    return opened


def _with_late_files(
    opened: Opened,
    before: Collection[Path],
    options: Mapping[str, Any],
    store: str,
    progress: Progress,
) -> Opened:
    """Count to a solver what it has imported so far, of which its files tell nothing."""
    known = files_of(opened.spec, options, opened.bare)
    late = imported_late(opened.spec, before, known)
    if not late:
        return opened
    names, digest = ", ".join(path.name for path in late), digest_of_files(late)
    unseen = "reference data and the store" if store else "reference data"
    progress.note(
        f"the solver imports {names} in a step, or from elsewhere: --resume sees an edit of it, "
        f"but {unseen} do not; import at the top of the solver's file what lies beside it"
    )
    return replace(opened, late=digest, identity=f"{opened.identity} {digest}")


def open_sample(config: CorrectionConfig, root: Path, progress: Progress) -> Opened:
    """The same for a dry run: without reference data coarse runs stand in; nothing is written."""
    # What comes from the store takes no time, and what goes there would be written.
    config = replace(config, run=replace(config.run, store=""))
    reference, training = _planned(config, root, progress), config.training
    if reference.missing:
        reference.planned()  # what a run would find out before it makes them
        steps = reference.steps
        data = reference.stand_in(training.batch + 1, config.window + 2, _STAND_IN_SECONDS)
    else:
        data = reference.load()
        steps = data.steps
        reference.check(data.simulations, steps, training.unroll, config.corrector.every)
        reference.check_unseen(data, config.window, progress, config.corrector.every)
    shortened = replace(reference, train=data.simulations - 1, test=1)
    if reference.missing:  # few stand in, and all of them in the training's place
        shortened = replace(shortened, validation=0)
    opened = _opened(config, shortened, data, steps, Silent())
    opened = _checked(opened, config.run.guarded(opened.bare), progress)
    check_suits(opened)
    if opened.split:
        progress.note(opened.split)
    return replace(opened, to_make=reference if reference.missing else None)


def open_few(config: CorrectionConfig, progress: Progress) -> tuple[Opened, str]:
    """As few simulations as a batch has windows, and where they come from; nothing is written."""
    config = replace(config, run=replace(config.run, store=""))
    count, solver = config.training.batch, open_solver(config)
    _check_network(config, solver)
    reference = reference_of(config, solver, Path())
    if config.data.path:
        data, source = reference.load(), reference.source
        count = min(count, max(1, data.simulations - 1))
        reference = replace(reference, train=count, test=1, validation=0)
    else:
        steps = config.window + 2
        reference = replace(reference, train=count, test=1, steps=steps, validation=0)
        data, source = reference.make(progress), f"{count} short runs of the reference"
    config = replace(config, data=replace(config.data, train=count, validation=0))
    opened = _opened(config, reference, data, data.steps, progress)
    check_suits(opened)
    return opened, source


def _planned(config: CorrectionConfig, root: Path, progress: Progress) -> Reference:
    """The reference data beside the run folder, and the solver, which suits the workers."""
    inject = config.corrector.inject
    if INJECTIONS[inject].through_solver:
        progress.note(
            f"corrector.inject={inject!r}: the loss is reached through the solver alone, so NON, "
            "NOG and PUSH have no gradient, and every label starts from scratch"
        )
    solver = open_solver(config)
    config.run.probed_by().check_solver(solver)
    _check_network(config, solver)
    reference = reference_of(config, solver, root.parent)
    if reference.missing:  # too few must be known before they are made
        simulations, unroll = reference.train + reference.test, config.training.unroll
        reference.check(simulations, reference.steps, unroll, config.corrector.every)
    return reference


def _check_network(config: CorrectionConfig, solver: Solver) -> None:
    """Build the network once, before anything is simulated."""
    corrector = config.corrector
    corrector.check_on(corrector.told_on(solver.grid), config.dtype, config.run.seeds[0])


def _opened(
    config: CorrectionConfig,
    reference: Reference,
    data: Trajectories,
    steps: int,
    progress: Progress,
    jacobians: Path = Path(),
) -> Opened:
    """Split the simulations, the last ones unseen, and step every training state once.

    A planned simulation has so many `steps`: an epoch is counted by them, whatever `data`, the
    reference data or what stands in for it, hold.
    """
    solver, spec, run = reference.solver, config.solver.spec, config.run
    corrector, non, training = config.corrector, config.non, config.training
    identity = solver_identity(spec, config.solver.options, solver, reference.content)
    reference.check(data.simulations, data.steps, training.unroll, corrector.every)
    parts = reference.split(data.to(run.device, config.dtype), config.window, corrector.every)
    black_box, bear = run.guarded(solver, identity), run.failures != "raise"
    what = corrector.inject, corrector.every, config.data.partial, corrector.history
    stored = Stored(parts, *what)
    problem = stored.problem(solver, black_box, bear, progress)
    runs = config.data.train - config.data.validation, config.data.validation
    planned = Planned(stored, problem, *((1, 1) if parts.told else runs), steps)
    train = problem.train
    scales = problem.scale, train.forcing_scale(), means(train.grid, train.forcing)
    unrolled, optimise = (training.unroll, training.batch), training.optimise
    opened = Opened(
        problem=problem,
        bare=solver,
        spec=spec,
        identity=f"{identity} {run.dtype}",
        content=reference.content,
        new_network=partial(corrector.network, train.grid, *scales),
        kind=corrector.kind_on(solver.grid),
        sizes=corrector.sizes,
        start=planned.schedule(1, non.batch, non.length, Optimise(lr=non.lr, warmup=non.warmup)),
        training=replace(
            planned.schedule(*unrolled, training.length, optimise),
            loss=loss_of(training.loss, training.loss_options, problem.scale),
            nudge=training.nudge,
            look_every=training.look_every,
        ),
        from_scratch=training.init == "scratch",
        push=config.push,
        weights=config.zo,
        interface=config.interface,
        cuts={label: cut for label in run.labels if (cut := config.cut_of(label))},
        emulator=config.emu,
        forward=config.fg,
        ensemble=config.eki,
        evolution=config.es,
        ensemble_iterations=planned.schedule(*unrolled, config.eki.length, optimise).iterations,
        labels=run.labels,
        seeds=run.seeds,
        workers=config.run.probed_by(),
        every_seconds=run.checkpoint_seconds,
        hours=run.hours,
        step_limit=run.solver_steps,
        drop=run.failures == "drop",
        bear=bear,
        jacobians=jacobians,
        metrics=metrics_of(run.metrics, problem.scale),
        pictures=pictures_of(run.pictures),
        rollout_steps=(parts.unseen.steps if parts.told else steps) // corrector.every,
        split=parts.told,
        validate_every=training.validate_every,
        patience=training.patience,
        looked_at=planned.looked_at(training.unroll),
    )
    if config.data.partial:
        check_starts(opened)
    return opened


def _checked(opened: Opened, solver: Solver, progress: Progress) -> Opened:
    """The same with steps, and chance, of a check that answers depend on the state alone.

    It is seen at two stored states, before the reach is measured: such a solver looks far.

    Raises:
        SolverError: If they depend on what was asked before, or on the states beside, by more than
            a probe can bear, or not on the state at all.
    """
    problem = opened.problem
    if problem.is_indifferent:
        raise SolverError("the answers to all stored states are the same: does it use the state?")
    asked = problem.stored_steps(seeded(solver, 0), problem.answered[[0, -1]])
    try:
        stepped = None if seedable(solver) else asked.stepped  # of another seed
        habits = habits_of(asked.solver, asked.state, asked.forcing, False, stepped)
    except MistakeError:
        raise
    except SolverError:  # whoever trains meets it, too, and does as `run.failures` says
        return opened
    told = "the same answer twice, whatever was asked before"
    if habits.chance:
        told = f"random: answers to one state differ by {habits.chance:.1e} standard deviations"
    elif habits.memory:
        told = f"an answer depends on what was asked before, by {habits.memory:.1e} standard "
        told += "deviations: `zopde check solver` says more"
    elif habits.beside:
        told = f"an answer depends on the other states of its batch, by {habits.beside:.1e} "
        told += "standard deviations: step each by itself, as zopde.OneAtATime(solver) does"
    if max(habits.memory, habits.beside) > _BORNE:
        raise SolverError(told)
    progress.note(f"solver, checked in {habits.steps} steps: {told}")
    return replace(opened, checking=habits.steps, chance=habits.chance)


def open_solver(config: CorrectionConfig) -> Solver:
    """The solver; one that can change its resolution is put on `data.coarse`, others have it."""
    solver = load_solver(config.solver.spec, config.solver.options)
    if isinstance(solver, ReferenceSolver) and "shape" in config.solver.options:
        raise InputError(
            "solver.options.shape",
            got=config.solver.options["shape"],
            expected="the resolution in data.coarse",
        )
    check_forcing(config.corrector.inject, solver.grid)
    coarse, axes = config.data.coarse, len(solver.grid.shape)
    if isinstance(solver, ReferenceSolver):
        own = isinstance(solver.grid, Mesh)
        coarse = coarse or (solver.grid.shape if own else (_COARSE,) * axes)
        made = {} if config.data.path else {"data.fine": config.data.fine}
        for name, cells in {"data.coarse": coarse, **made}.items():
            if len(cells) != axes:
                expected = f"one number of cells for each of {', '.join(solver.grid.dims)}"
                raise InputError(name, got=list(cells), expected=expected)
        return on_cells(solver, "data.coarse", coarse)
    if coarse not in ((), solver.grid.shape):
        expected = f"{list(solver.grid.shape)}, the solver's own, or nothing"
        raise InputError("data.coarse", got=list(coarse), expected=expected)
    return solver


def reference_of(config: CorrectionConfig, solver: Solver, folder: Path) -> Reference:
    """The data in `data.path`, or in a file of `folder` whose name tells what it holds."""
    data, spec, coarse = config.data, config.solver.spec, solver.grid.shape
    sizes = "-".join("x".join(map(str, shape)) for shape in (data.fine, coarse))
    path = folder / f"{Path(spec.replace(':', '-')).name}-{sizes}-seed{data.seed}.nc"
    content = content_of(spec, config.solver.options, solver)
    if recorded_settings(path).get("content", content) != content:
        path = path.with_stem(f"{path.stem}-{content[:8]}")  # another solver's data stay
    return Reference(
        spec=spec,
        solver=solver,
        content=content,
        files=tuple(data_files(data.path or path)),
        names={**data.names, **data.dims},
        fine=data.fine,
        coarse=coarse,
        skip=data.skip,
        steps=data.steps,
        train=data.train,
        test=data.test,
        validation=data.validation,
        partial=data.partial,
        told=config.corrector.told,
        seed=data.seed,
        device=config.run.device,
        dtype=config.dtype,
    )
