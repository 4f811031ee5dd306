"""The reference data of a run: where they lie, what they were made with, how they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from zopde import __version__
from zopde.blackbox import BlackBox
from zopde.contracts import Domain, Downsampling, ReferenceSolver, Solver
from zopde.data import (
    Trajectories,
    from_dataset,
    load_trajectories,
    save_trajectories,
    simulate,
    to_dataset,
)
from zopde.data.clock import is_clock
from zopde.data.trajectories import Settings
from zopde.domain import with_forcing
from zopde.errors import InputError, SolverError, first_line
from zopde.hybrid import downsample
from zopde.memory import check_fits
from zopde.mesh import Mesh
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.timing import median_seconds
from zopde.validate import check_folder_writable

Coarsening = Callable[[Tensor], Tensor]
_SAMPLE_STEPS = 4
_LAST = 5  # of one long run, the last of so many parts is unseen
_HELD = 10  # and one of so many is for the validation, if there is one


@dataclass(frozen=True)
class Parts:
    """Reference data, split."""

    seen: Trajectories  # to learn from
    unseen: Trajectories  # to test on
    held: Trajectories | None = None  # to choose the best weights by
    told: str = ""  # how one run was split; "" where there are several


@dataclass(frozen=True)
class Reference:
    """Runs on the fine grid, brought to the coarse one."""

    spec: str  # the solver's name
    solver: Solver  # the coarse solver; one without `at` and `scenario` cannot make its own data
    content: str  # a digest of the solver's files
    files: tuple[Path, ...]  # the data files, of which the first is made where it is not there
    names: Mapping[str, str]  # names in the files -> the grid's
    fine: tuple[int, ...]  # cells of the fine grid
    coarse: tuple[int, ...]  # cells of the coarse grid
    skip: int  # steps before the first state that is kept
    steps: int  # steps that are kept
    train: int  # simulations to learn from
    test: int  # unseen ones
    seed: int  # draws the scenarios
    device: str  # where they are simulated
    dtype: torch.dtype  # in which precision
    validation: int = 0  # of those to learn from, so many are looked at only
    partial: bool = False  # whether states may be NaN where nothing was measured
    told: tuple[str, ...] = ()  # forcing channels that a network sees, and the solver has not

    @property
    def path(self) -> Path:
        """The data file, the first of several."""
        return self.files[0]

    @property
    def source(self) -> str:
        """What to call the files in a line."""
        return f"{self.path}" + (f" and {len(self.files) - 1} more" if self.files[1:] else "")

    @property
    def can_be_made(self) -> bool:
        """Whether the solver makes its own data."""
        return isinstance(self.solver, ReferenceSolver)

    @property
    def missing(self) -> bool:
        """Whether the data have to be made first."""
        return self.can_be_made and not self.path.exists()

    @property
    def made_with(self) -> Settings | None:
        """All that decides the numbers, in plain values; None for data that the user brings."""
        if not isinstance(self.solver, ReferenceSolver):
            return None
        return {
            "solver": self.spec,
            "content": self.content,
            "options": dict(self.solver.options),
            "fine": list(self.fine),
            "coarse": list(self.coarse),
            "skip": self.skip,
            "steps": self.steps,
            "simulations": self.train + self.test,
            "seed": self.seed,
            "dtype": str(self.dtype).removeprefix("torch."),
            "zopde_version": __version__,
        }

    def read(self, made_with: Settings | None = None) -> Trajectories:
        """The data of the files, whatever they were made with if that is not given."""
        grid, names = with_forcing(self.solver.grid, self.told), self.names
        return load_trajectories(self.files, grid, made_with, names, self.partial)

    def _told(self, made: Trajectories) -> Trajectories:
        """Data that were made, with what a network is told of their times."""
        if not self.told:
            return made
        return from_dataset(to_dataset(made), with_forcing(made.grid, self.told))

    def load(self) -> Trajectories:
        """The data of the files, which must be there and made with the same."""
        return self.read(self.made_with)

    def load_or_make(self, progress: Progress) -> Trajectories:
        """The data of the file, which is made where there is none."""
        if not self.missing:
            data = self.load()
            early = ", of an earlier version: which code of the solver made them is not known"
            known = not data.settings or "content" in data.settings
            own = "" if data.settings else "; data.fine, .skip, .steps and .seed are not used"
            read = f": {data.simulations} simulations, {data.steps} steps" * bool(self.files[1:])
            progress.note(f"reference data: {self.source}{read}{own if known else early}")
            return data
        check_folder_writable("folder of the data file", self.path.parent)
        data = self._made(progress)
        save_trajectories(data, self.path)
        progress.note(f"reference data: made {self.path}")
        return self._told(data)

    def make(self, progress: Progress) -> Trajectories:
        """Simulate the reference on the fine grid and bring it to the coarse one."""
        return self._told(self._made(progress))

    def _made(self, progress: Progress) -> Trajectories:
        fine_solver, coarse, coarse_forcing = self.planned()
        with progress.stage("reference data", self.skip + self.steps) as advance:
            made = simulate(
                _through_the_border(fine_solver),
                coarse,
                self.solver.grid,
                simulations=self.train + self.test,
                skip=self.skip,
                steps=self.steps,
                generator=generator(self.seed, "data"),
                dtype=self.dtype,
                device=self.device,
                progress=advance,
                coarse_forcing=coarse_forcing,
            )
        return Trajectories(made.grid, made.states, made.forcing, self.made_with or {})

    def planned(self) -> tuple[ReferenceSolver, Coarsening, Coarsening]:
        """The solver on the fine grid; what brings its states, and its forcing, to the coarse one.

        Raises:
            InputError: If the data cannot be made: nothing has been simulated yet.
        """
        solver, grid = self.solver, self.solver.grid
        if not isinstance(solver, ReferenceSolver):
            raise InputError(
                f"solver {self.spec!r}",
                got="no `at` and `scenario` to make data with",
                expected="reference data in a NetCDF file",
                remedy="name it with --data, or give the solver both methods",
            )
        if isinstance(grid, Mesh) and not isinstance(solver, Downsampling):
            got = "no `downsample` to bring a fine mesh to a coarse one"
            raise InputError(f"solver {self.spec!r}", got=got, expected="one, or data of its own")
        if own := [name for name in self.told if not is_clock(name)]:
            got, expected = ", ".join(map(repr, own)), "none where the solver makes its own data"
            remedy = "name files that have them as variables, with --data"
            raise InputError("corrector.inputs", got=got, expected=expected, remedy=remedy)
        fine_solver = on_cells(solver, "data.fine", self.fine)
        fine = fine_solver.grid
        try:
            cells = self._checked_cells(fine)

            def by_cells(values: Tensor) -> Tensor:
                return downsample(values, self.coarse, cells)

            coarse = solver.downsample if isinstance(solver, Downsampling) else by_cells
            coarse_forcing = coarse if isinstance(grid, Mesh) else by_cells
            self._check_shape(coarse, fine.state_shape, grid.state_shape)
            if grid.forcing_channels:
                self._check_shape(coarse_forcing, fine.forcing_shape, grid.forcing_shape)
        except InputError as error:
            raise error.of("data.coarse") from error
        numbers = (self.steps + 1) * math.prod(self.coarse) + 4 * math.prod(self.fine)
        self._check_fits(self.train + self.test, numbers)
        return fine_solver, coarse, coarse_forcing

    def _check_shape(
        self, coarse: Coarsening, fine: tuple[int, ...], wanted: tuple[int, ...]
    ) -> None:
        """Require that a field of the fine grid arrives on the coarse one."""
        got = tuple(coarse(torch.zeros(1, *fine, dtype=self.dtype)).shape[1:])
        if got != wanted:
            raise InputError("downsample", got=f"{fine} -> {got}", expected=f"{wanted}")

    def _checked_cells(self, fine: Domain) -> Tensor | None:
        """Weights of the fine cells; each fluid cell of the coarse grid must have some in it."""
        weights = fine.cell_weights
        if weights is None or isinstance(self.solver.grid, Mesh):
            return None
        dry = downsample(weights[None, None], self.coarse)[0, 0] == 0
        if bool((dry if self.solver.grid.fluid is None else dry & self.solver.grid.fluid).any()):
            got, expected = "fluid where the fine grid has none", "the mask of grid.with_shape"
            raise InputError(f"mask of solver {self.spec!r}", got=got, expected=expected)
        return weights

    def stand_in(self, count: int, kept: int, seconds: float) -> Trajectories:
        """The last `kept` steps of `count` coarse runs as long as the data's, or as time allows.

        How far a step reaches depends on how fast the flow is, so they must not end at the start.
        """
        solver = self.solver
        assert isinstance(solver, ReferenceSolver)
        self._check_fits(count, (kept + 1) * math.prod(self.coarse))

        def run(skip: int, steps: int) -> Trajectories:
            draw, grid = generator(self.seed, "data"), solver.grid
            inside = _through_the_border(solver)
            return simulate(inside, lambda u: u, grid, count, skip, steps, draw, self.dtype)

        seconds_a_step = median_seconds(lambda: run(0, _SAMPLE_STEPS)) / _SAMPLE_STEPS
        wanted = self.skip + self.steps - kept
        skip = max(2, min(wanted, int(seconds / seconds_a_step)))
        return self._told(replace(run(skip, kept), settings={"skip": skip}))

    def _check_fits(self, simulations: int, cells: int) -> None:
        """Require so many cells of every simulation to fit into the memory, with their forcing."""
        grid = self.solver.grid
        numbers = simulations * cells * len((*grid.channels, *grid.forcing_channels))
        remedy = "fewer cells, steps or simulations (data), a smaller batch or unroll (training)"
        check_fits("reference data", numbers, self.dtype.itemsize, remedy)

    def check(self, simulations: int, steps: int, unroll: int, every: int) -> None:
        """Require as many simulations as a run needs, each of at least one window."""
        if 1 < simulations < self.train + self.test:  # one is split
            raise InputError(
                "data",
                got=f"{simulations} simulations",
                expected=f"at least data.train + data.test = {self.train + self.test}",
                remedy="name smaller ones: --set data.train=... --set data.test=...",
            )
        if simulations > 1 and self.validation >= self.train:
            expected = f"less than data.train = {self.train}, of which it is a part"
            raise InputError("data.validation", got=self.validation, expected=expected)
        if steps < unroll * every:
            times = f" times corrector.every = {every}" if every > 1 else ""
            raise InputError(
                "data",
                got=f"{steps} steps in a run",
                expected=f"at least training.unroll = {unroll}{times}",
            )

    def split(self, data: Trajectories, window: int, every: int = 1) -> Parts:
        """The simulations that are learned from, and the last ones; of one run, the last fifth.

        The validation lies between. Between two parts of one run lies a window, of `window` steps,
        that neither has.

        Raises:
            InputError: If one run is too short.
        """
        if data.simulations > 1:
            unseen, first = data.take(slice(self.train, self.train + self.test)), self.train
            first -= self.validation
            held = data.take(slice(first, self.train)) if self.validation else None
            return Parts(data.take(slice(first)), _from_whole(unseen, every), held)

        def middle(steps: int) -> int:
            """Steps of the validation and the gap before it."""
            return max(window, steps // _HELD) + window if self.validation else 0

        steps, last = data.steps, data.steps // _LAST
        first = steps - last - window - middle(steps)
        least = next(n for n in count(_LAST) if n - n // _LAST - middle(n) >= 2 * window)
        if steps < least:
            got, remedy = f"one run of {steps} steps", "a longer run, or a smaller training.unroll"
            expected = f"at least {least}, to learn from some and test on others"
            raise InputError("data", got=got, expected=expected, remedy=remedy)
        seen, unseen = (data.take(slice(1), t) for t in (slice(first + 1), slice(-last - 1, None)))
        told = f"one run of {steps} steps: the first {first} to learn from, {window} left out, "
        held = None
        if self.validation:
            held = data.take(slice(1), slice(first + window, first + middle(steps) + 1))
            told += f"{held.steps} for the validation, {window} left out, "
        told += f"the last {last} unseen; data.train and data.test are not used"
        return Parts(seen, _from_whole(unseen, every), held, told)

    def check_unseen(
        self, data: Trajectories, window: int, progress: Progress, every: int = 1
    ) -> None:
        """Require unseen states that are none of those seen; say where nothing moves."""
        if torch.equal(data.states[:, 1:], data.states[:, :-1]):
            progress.note("reference data: they never change in time, so there is little to learn")
            return
        if self.partial:  # NaN is not the same as NaN
            data = replace(data, states=data.states.nan_to_num(0.0))
        parts = self.split(data, window, every)
        seen, held = list(parts.seen.states), [] if parts.held is None else list(parts.held.states)
        _check_new(held, seen, "for the validation", parts.told)
        _check_new(list(parts.unseen.states), [*seen, *held], "to be unseen", parts.told)


def _from_whole(unseen: Trajectories, every: int) -> Trajectories:
    """The runs from the first time on at which all of them are whole: rollouts begin there."""
    for number, states in enumerate(unseen.whole, start=1):
        if not bool(states.any()):
            got = f"unseen run {number} of {unseen.simulations}, no state of which is whole"
            raise InputError("data", got=got, expected="a whole state, for its rollout to begin")
    whole = [*unseen.whole.all(dim=0).nonzero().flatten().tolist(), unseen.steps]
    later = unseen.seen[:, whole[0] + every :: every].any(dim=1)
    if whole[0] == unseen.steps or (whole[0] + every <= unseen.steps and not bool(later.all())):
        got = f"{int(unseen.whole.sum()):,} whole states in the {unseen.simulations} unseen runs"
        expected = "a time at which all are whole, for rollouts to begin, and measurements behind"
        raise InputError("data", got=got, expected=expected)
    return unseen.take(slice(None), slice(whole[0], None))


def _check_new(later: list[Tensor], earlier: list[Tensor], what: str, told: str) -> None:
    """Require runs of which none is the same as an earlier one, or as a stretch of it."""
    for number, states in enumerate(later, start=len(earlier)):
        steps = len(states) - 1
        for other, before in enumerate(earlier):
            for end in range(steps, len(before)):
                same = torch.equal(before[end], states[-1])
                if same and torch.equal(before[end - steps : end + 1], states):
                    got = f"simulation {number}, {what}, the same as {other} in training"
                    if told:
                        got = f"the last {steps} steps, {what}, also before step {end}"
                    expected = "states at the end that no training has seen"
                    remedy = "put others in their place"
                    raise InputError("data", got=got, expected=expected, remedy=remedy)


def _through_the_border(solver: ReferenceSolver) -> Any:  # noqa: ANN401 - what `simulate` asks
    """A solver's scenario, and its steps as a run takes them."""
    return SimpleNamespace(scenario=solver.scenario, step=BlackBox(solver).step)


def on_cells(solver: ReferenceSolver, name: str, shape: tuple[int, ...]) -> ReferenceSolver:
    """The solver on other cells, those of a setting; what its constructor may raise in one line."""
    try:
        return solver.at(shape)
    except (InputError, SolverError):
        raise
    except Exception as error:  # a user's solver may raise anything
        got, expected = f"{shape} ({first_line(error)})", "cells that the solver can be cut into"
        raise InputError(name, got=got, expected=expected) from error
