"""The solver's own steps of the training data, and the windows that begin at them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from zopde.blackbox import Dropping, Filled, Retrying
from zopde.contracts import Differentiable, Solver
from zopde.data import Trajectories, first_steps, later_steps
from zopde.data.batches import usable_starts
from zopde.data.deviations import constant_channels
from zopde.errors import InputError, MistakeError, SolverError
from zopde.hybrid import INJECTIONS
from zopde.nets.correctors import Inject
from zopde.progress import Progress
from zopde.studies.correct.labels import LABELS, check_first_guess
from zopde.studies.correct.problem import LOOKED_AT, Opened, Problem, Schedule
from zopde.studies.correct.reference import Parts
from zopde.studies.settings import iterations_in
from zopde.training import Optimise


@dataclass(frozen=True)
class Stored:
    """Reference data of which the solver steps every training state once."""

    parts: Parts  # to learn from, to test on
    inject: Inject  # where the correction enters
    every: int  # solver steps to a correction
    gaps: bool  # whether states may have been measured in part
    history: int = 0  # earlier states that the network sees

    def __post_init__(self) -> None:
        steps = self.parts.unseen.steps
        if steps < self.every:  # of one run, whose last part is short
            expected = f"at least corrector.every = {self.every}"
            remedy = "take a longer run"
            raise InputError("data", got=f"{steps} unseen steps", expected=expected, remedy=remedy)

    def problem(
        self, solver: Solver, black_box: Solver, again: bool, progress: Progress
    ) -> Problem:
        """Solver and data as all labels see them; `again` repeats a stored step that fails."""
        whole_data, every = self.parts.seen, self.every
        seen = whole_data.of_solver(solver.grid)
        if constant := _constant(whole_data, len(solver.grid.forcing_channels)):
            told = "what is the same in all training data, so it cannot learn what that does"
            progress.note(f"the network is told {told}: {', '.join(constant)}")
        if self.inject == "parameter" and seen.forcing is not None:
            guess = solver.grid.fluid_values(seen.forcing)
            if said := check_first_guess(solver.grid.forcing_channels, guess):
                progress.note(said)
        whole = seen.whole[:, :-1]
        # Windows go on from these answers where the correction comes after them
        further = 1 if INJECTIONS[self.inject].through_solver else every
        steps = sum(int(whole[:, : seen.steps - k].sum()) for k in range(further))
        if self.gaps:
            share = 100 * float(seen.measured.double().mean())
            told = f"{share:.3g} % of the training data were measured; {int(whole.sum()):,} of "
            progress.note(f"{told}{whole.numel():,} states are whole, and windows start there")
        with progress.stage("coarse steps of the stored data", steps) as advance:
            # They are made once, so those that fail are stepped again even where runs drop.
            drop = isinstance(black_box, Dropping)
            asked = Retrying(black_box) if again else black_box
            try:
                stepped = first_steps(asked, seen, progress=advance, drop=drop, partial=self.gaps)
                later = later_steps(asked, seen, stepped, further, advance, drop, self.gaps)
                later = later[:, : seen.steps + 1 - every]
            except MistakeError:
                raise
            except SolverError as error:
                hint = "run.failures=retry asks again, drop goes on without the step"
                raise SolverError(f"{error}; {hint}", error.failures, error.answers) from error
        whole = whole[:, : later.shape[1]]
        if lost := int((whole & ~later.flatten(2).isfinite().all(dim=2)).sum()):
            told = f"{lost} of {int(whole.sum())} stored states have no answer of the solver"
            progress.note(f"{told}: windows that start there are left out")
        twin = solver.differentiable_twin() if isinstance(solver, Differentiable) else None
        return Problem(
            solver=black_box,
            twin=None if twin is None else Filled(twin),
            train=whole_data,
            test=self.parts.unseen.strided(every),
            held=self.parts.held,
            stepped=stepped,
            later=later,
            prepared=steps,
            inject=self.inject,
            every=every,
            history=self.history,
        )


def _constant(data: Trajectories, own: int) -> list[str]:
    """Names of what a network is told, and what is the same in all the data but for round-off."""
    names = data.grid.forcing_channels[own:]
    if data.forcing is None or not names:
        return []
    return constant_channels(data.grid, data.forcing[:, :, own:], names)


@dataclass(frozen=True)
class Planned:
    """Runs as long as those that are planned, also where short ones stand in for them."""

    stored: Stored  # what there is
    made: Problem  # with the solver's steps of it
    train: int  # runs to learn from, those of the validation left out
    validation: int  # runs of the validation
    steps: int  # of each, where there are several

    def schedule(self, unroll: int, batch: int, length: str, optimise: Optimise) -> Schedule:
        """A stretch of training; a length in epochs counts by the windows of the planned runs."""
        parts, every = self.stored.parts, self.stored.every
        steps = parts.seen.steps if parts.told else self.steps
        windows = self.train * (steps - unroll * every + 1)
        if self.stored.gaps:  # such data are there, and all of them are known
            windows = _windows(self.made.train, self.made.later, unroll, every)
        per_epoch = max(1, windows // max(1, min(batch, windows)))
        return Schedule(unroll, batch, iterations_in(length, per_epoch), per_epoch, optimise)

    def looked_at(self, unroll: int) -> int:
        """Windows of a look at the validation; 0 without one."""
        held, every = self.stored.parts.held, self.stored.every
        if held is not None:
            begun = held.states[:, : held.steps + 1 - every]
            return min(LOOKED_AT, _windows(held, begun, unroll, every))
        if self.stored.parts.told:
            return 0
        return min(LOOKED_AT, self.validation * (self.steps - unroll * every + 1))


def _windows(data: Trajectories, begun: Tensor, unroll: int, every: int) -> int:
    return int(usable_starts(data, begun, unroll, every).sum())


def check_starts(opened: Opened) -> None:
    """Require windows to start at for every stage, where data were measured in part."""
    names = [name for name in opened.possible if LABELS[name].trained]
    if any(map(opened.starts_from_non, names)):
        opened.start.windows(opened.problem, 0)
    for schedule in (opened.training, *(opened.schedule_of(LABELS[name]) for name in names)):
        schedule.windows(opened.problem, 0)
    opened.validation()
