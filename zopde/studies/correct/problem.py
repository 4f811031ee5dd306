"""Solver, data and normalisation of a correction run, ready to train on.

The solver of a run: behind the line, kept in the store, asked again where it fails.
"""

from __future__ import annotations

import inspect
import json
from contextlib import suppress
from dataclasses import dataclass
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
from zopde.files import digest_of, identity_of
from zopde.hybrid import INJECTIONS, UnrolledObjective, downsample
from zopde.nets import Normalised, build_corrector
from zopde.plugins import load_solver
from zopde.progress import Progress
from zopde.seeding import generator, global_stream, noise_seeds
from zopde.studies.correct.labels import check_forcing
from zopde.studies.correct.settings import CorrectionConfig


def guarded(config: CorrectionConfig, solver: Solver) -> Solver:
    """The user's solver as a run asks it, from the inside out.

    In a process of its own (`run.apart`); checked; answers kept (`run.store`); what failed is
    asked for again (`run.retries`) and then raised or left out (`run.failures`).
    """
    run = config.run
    inside = BlackBox(Apart(solver, run.timeout or None) if run.apart else solver)
    if run.store:
        store = Store(Path(run.store), run.store_gib)
        stored = Stored(inside, store, solver_identity(config, solver))
        kept = Retrying(stored, _times(config), run.failure_limit)
    else:
        kept = Retrying(inside, _times(config), run.failure_limit)
    return Dropping(kept) if run.failures == "drop" else kept


def solver_identity(config: CorrectionConfig, solver: Solver) -> str:
    """A digest of everything but its input that decides a solver's answer.

    The spec, the options, the grid, the source file of its class, and the content of every file
    that the spec or an option names.
    """
    spec, options = config.solver.spec, config.solver.options
    plain = [spec, options, repr(solver.grid), getattr(solver, "options", {}), __version__]
    described = json.dumps(plain, sort_keys=True, default=str)
    return identity_of(described, _files(spec, options, solver))


def _files(spec: str, options: dict[str, Any], solver: Solver) -> list[Path]:
    named = [spec, spec.rpartition(":")[0], *(v for v in options.values() if isinstance(v, str))]
    with suppress(TypeError):  # a class of the interpreter's own has no file
        named.append(inspect.getsourcefile(type(solver)) or "")
    return [Path(name) for name in dict.fromkeys(named) if name and Path(name).is_file()]


def _times(config: CorrectionConfig) -> int:
    return 0 if config.run.failures == "raise" else config.run.retries


@dataclass(frozen=True)
class Problem:
    """What every label shares.

    Args:
        solver: The coarse black box.
        twin: Its differentiable twin, for SOL alone; None where it has none.
        train: Reference data to learn from.
        test: Reference data of the unseen runs.
        stepped: The solver's answer to every training state; see `first_steps`.
    """

    solver: Solver
    twin: Solver | None
    train: Trajectories
    test: Trajectories
    stepped: Tensor

    @property
    def scale(self) -> Tensor:
        """(channel,), the training data's standard deviation."""
        return self.train.state_scale()

    def digest(self) -> str:
        """SHA-256 of the reference data's numbers."""
        parts = self.train, self.test
        return digest_of(values for part in parts for values in (part.states, part.forcing))


def coarse_solver(config: CorrectionConfig) -> Solver:
    """The solver of the config; one that can change its resolution is put on `data.coarse`."""
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


def data_settings(config: CorrectionConfig, solver: ReferenceSolver) -> Settings:
    """Everything that decides the reference data, in plain values."""
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


def wanted_settings(config: CorrectionConfig, solver: Solver) -> Settings | None:
    """What a data file must record; None for a solver that cannot make its own data."""
    return data_settings(config, solver) if isinstance(solver, ReferenceSolver) else None


def make_data(config: CorrectionConfig, progress: Progress) -> Trajectories:
    """Simulate the reference on the fine grid and bring it to the coarse one.

    Raises:
        InputError: If the solver cannot make its own data.
    """
    solver = coarse_solver(config)
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
    return Trajectories(made.grid, made.states, made.forcing, data_settings(config, solver))


def prepare(config: CorrectionConfig, path: Path, progress: Progress) -> Problem:
    """Load the data, or make and keep it where `path` does not exist; step it once."""
    solver = coarse_solver(config)
    if path.exists() or not isinstance(solver, ReferenceSolver):
        data = load_trajectories(path, solver.grid, wanted_settings(config, solver))
        progress.note(f"reference data: {path}")
    else:
        data = make_data(config, progress)
        save_trajectories(data, path)
        progress.note(f"reference data: made {path}")
    return problem_from(config, solver, data, progress)


def check_data(config: CorrectionConfig, data: Trajectories) -> None:
    """Require as many simulations, and as long ones, as the config needs."""
    wanted = config.data.train + config.data.test
    if data.simulations < wanted:
        raise InputError(
            "data",
            got=f"{data.simulations} simulations",
            expected=f"at least data.train + data.test = {wanted}",
        )
    check_steps(config, data.steps)


def check_steps(config: CorrectionConfig, steps: int) -> None:
    """Require runs of at least one window."""
    if steps < config.training.unroll:
        raise InputError(
            "data",
            got=f"{steps} steps in a run",
            expected=f"at least training.unroll = {config.training.unroll}",
        )


def problem_from(
    config: CorrectionConfig, solver: Solver, data: Trajectories, progress: Progress
) -> Problem:
    """Split the simulations, the last ones unseen, and step every training state once."""
    train, test = config.data.train, config.data.test
    check_data(config, data)
    data = data.to(config.run.device, config.dtype)
    seen, black_box = data.take(slice(0, train)), guarded(config, solver)
    with progress.stage("coarse steps of the stored data", train * data.steps) as advance:
        # A stored state cannot be left out, so it is asked about again even where runs drop.
        stepped = first_steps(Retrying(black_box), seen, progress=advance)
    return Problem(
        solver=black_box,
        twin=solver.differentiable_twin() if isinstance(solver, Differentiable) else None,
        train=seen,
        test=data.take(slice(train, train + test)),
        stepped=stepped,
    )


def new_corrector(config: CorrectionConfig, problem: Problem, seed: int) -> Normalised:
    """An untrained corrector; the same for every label of a seed."""
    grid = problem.solver.grid
    auto = "periodic" if grid.boundary == "periodic" else "zero"
    padding = auto if config.corrector.padding == "auto" else config.corrector.padding
    inputs, inject = len(grid.channels) + len(grid.forcing_channels), config.corrector.inject
    moved = INJECTIONS[inject].adds_to
    outputs = len(grid.channels if moved == "state" else grid.forcing_channels)
    with global_stream(generator(seed, "weights")):
        try:
            body = build_corrector(
                config.corrector.kind,
                inputs,
                outputs,
                padding="periodic" if padding == "periodic" else "zero",
                sizes=config.corrector.sizes,
            )
            body(torch.zeros(1, inputs, *grid.shape))
        except (ValueError, RuntimeError) as error:
            raise InputError(
                "corrector.sizes",
                got=f"{config.corrector.sizes} ({first_line(error)})",
                expected=f"sizes of a {config.corrector.kind!r} corrector on {grid.shape} cells",
                remedy="such as --set corrector.sizes={}",
            ) from error
    network = Normalised(body, problem.scale, problem.train.forcing_scale(), inject=inject)
    return network.to(config.run.device, config.dtype)


def first_objective(
    config: CorrectionConfig, problem: Problem, solver: Solver, seed: int
) -> UnrolledObjective:
    """The unrolled loss on a label's first batch, with the steps taken by `solver`."""
    training = config.training
    windows = Windows(problem.train, problem.stepped, training.unroll, training.batch, seed)
    injection = INJECTIONS[config.corrector.inject]
    seeds = noise_seeds(seed, 0, training.unroll)
    return UnrolledObjective(solver, windows.batch(0), problem.scale, injection, seeds)
