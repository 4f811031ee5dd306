"""The bank of a run: Jacobians that are measured once, kept, found again and watched."""

from __future__ import annotations

import csv
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from zopde.contracts import Solver
from zopde.files import replacing
from zopde.interface import (
    Bank,
    BankPullback,
    JacobianStore,
    Key,
    Probing,
    Pullback,
    Step,
    Watch,
    farthest_points,
    form_for,
)
from zopde.interface.forms import Form
from zopde.interface.vjp import Variable, by_variable
from zopde.progress import Progress, Silent
from zopde.seeding import generator
from zopde.studies.correct.cuts import InterfaceCut
from zopde.studies.correct.problem import Problem

WATCH = "watch.csv"
_OWN = "bank"
_NEAR = 5  # cells along each axis
_HEAD = ["iteration", "mean_agreement", "least_agreement", "snapshots", "fallbacks"]


@dataclass(frozen=True)
class Places:
    """Where Jacobians lie."""

    # Those of the first snapshots, for every run with the same solver and data; None for memory
    shared: Path | None = None
    # What the watch saw and added, of this label and seed alone; None for memory
    own: Path | None = None


@final
class BankAt:
    """Iteration -> a pullback that looks Jacobians up, and on some iterations watches them.

    The banks are a function of the data and of the iterations so far: what a watch added after
    the point from which a run is resumed is forgotten, and found again.

    Args:
        cut: How Jacobians are measured, kept and looked up.
        problem: Solver and data.
        identity: What decides the solver's answers.
        solver: Counts the steps of the first snapshots; the steps that are watched bring their own.
        seed: The run's.
        places: Where the Jacobians and what the watch saw are kept.
        executor: Worker processes; None is this process.
        fallback: What serves where a watch finds no agreement and no room.
        progress: Who is watching the banks being filled.

    Raises:
        InputError: If the banks are too large, or there is less data than snapshots.
    """

    def __init__(
        self,
        cut: InterfaceCut,
        problem: Problem,
        identity: str,
        solver: Solver,
        seed: int,
        places: Places,
        executor: Executor | None = None,
        fallback: Pullback | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._cut, self._seed, self._problem = cut, seed, problem
        self._mu = {v: cut.mu * problem.scale_of(v) for v in problem.variables}
        self._own, self._fallback = places.own, fallback
        self._watches: list[Watch] = []
        self._at, self._started = 0, False
        here = None if places.own is None else places.own / _OWN
        self._kept = JacobianStore(here, identity)
        self.solver_steps = steps_of_bank(cut, problem)
        title = f"{cut.snapshots * len(self._mu)} Jacobians"
        with (progress or Silent()).stage(title, self.solver_steps) as advance:
            shared = JacobianStore(places.shared, identity, advance)
            self.banks = self._filled(solver, shared, here, executor)
        self.asked = shared.solver_steps

    def _filled(
        self, solver: Solver, shared: JacobianStore, here: Path | None, executor: Executor | None
    ) -> dict[Variable, Bank]:
        cut, problem = self._cut, self._problem
        banks = {
            variable: Bank(
                form,
                cut.snapshots + cut.more_snapshots,
                _key(problem),
                variable,
                Probing(self._mu[variable], cut.scheme, cut.states, executor),
                shared,
                None if here is None else here / f"{variable}.pt",
            )
            for variable, form in forms_of_bank(cut, problem).items()
        }
        snapshots = _snapshots(problem, solver, cut.snapshots)
        for bank in banks.values():
            bank.add(snapshots)
        return banks

    def __call__(self, iteration: int) -> Pullback:
        """The pullback of one iteration."""
        if not self._started:  # what came later than this belongs to a run that was cut off
            for bank in self.banks.values():
                bank.restore(self._problem.solver, iteration, self._kept)
            self._started = True
        self.write(iteration)
        cut, draws = self._cut, generator(self._seed, "probes", iteration)
        found: dict[Variable, Pullback] = {}
        for variable, bank in self.banks.items():
            watch = None
            if cut.watch_every and iteration % cut.watch_every == 0:
                watch = Watch(
                    draws,
                    cut.watch_below,
                    self._mu[variable],
                    iteration,
                    self._kept,
                    self._fallback,
                )
                self._at = iteration
                self._watches.append(watch)
            found[variable] = BankPullback(bank, cut.lookup, watch)
        return by_variable(found)

    def agreement(self) -> float | None:
        """What this iteration's watch has seen, the mean; None where it did not look."""
        seen = [figure for watch in self._watches for figure in watch.agreements]
        return sum(seen) / len(seen) if seen else None

    def write(self, iteration: int) -> None:
        """Append what the latest watch saw to its file; rows from `iteration` on are dropped."""
        if self._cut.watch_every and self._own is not None:
            rows = [row for row in _rows(self._own / WATCH) if int(row[0]) < iteration]
            mean = self.agreement()
            if mean is not None:
                least = min(figure for watch in self._watches for figure in watch.agreements)
                count = sum(map(len, self.banks.values()))
                fell_back = sum(watch.fell_back for watch in self._watches)
                rows.append([str(v) for v in (self._at, mean, least, count, fell_back)])
            _write(self._own / WATCH, [_HEAD, *rows])
        self._watches = []

    def finish(self, iteration: int) -> str:
        """Write what is left, and say in a line what the watch saw."""
        self.write(iteration)
        rows = _rows(self._own / WATCH) if self._own is not None else []
        if not rows:
            return ""
        means, least, counts, fallbacks = ([float(row[i]) for row in rows] for i in (1, 2, 3, 4))
        added = int(counts[-1]) - self._cut.snapshots * len(self.banks)
        text = f"bank and solver agree {sum(means) / len(means):.4f} on average, {min(least):.4f} "
        text += f"at the least; {added} snapshots added"
        if sum(fallbacks):
            text += f"; {self._cut.fallback} answered {int(sum(fallbacks))} products instead"
        return text

    @property
    def note(self) -> str:
        """What the banks hold, and what it took."""
        text = f"{sum(map(len, self.banks.values()))} Jacobians, {self.solver_steps:,} solver steps"
        text += {0: " once before, none now", self.solver_steps: " once"}.get(
            self.asked, f", {self.asked:,} of them now"
        )
        lost = {bank.form.name: bank.error for bank in self.banks.values() if bank.error}
        for name, error in lost.items():
            text += f"; {name}: {100 * error:.2g} % of a Jacobian is lost"
        return text


def forms_of_bank(cut: InterfaceCut, problem: Problem) -> dict[Variable, Form]:
    """How Jacobians of each variable are kept; the banks share the limit.

    Raises:
        InputError: If they do not fit.
    """
    grid, count = problem.solver.grid, cut.snapshots + cut.more_snapshots
    limit = cut.limit_gib / len(problem.variables)
    near = tuple(cut.near) or (_NEAR,) * len(grid.shape)
    return {v: form_for(grid, v, count, limit, near, cut.rank) for v in problem.variables}


def steps_of_bank(cut: InterfaceCut, problem: Problem) -> int:
    """Solver steps that the first snapshots take, in this process or in one before."""
    grid = problem.solver.grid
    shapes = {"state": grid.state_shape, "forcing": grid.forcing_shape}
    entries = sum(torch.Size(shapes[variable]).numel() for variable in problem.variables)
    return cut.snapshots * entries * cut.sides


def _snapshots(problem: Problem, solver: Solver, count: int) -> Step:
    """States of the training data that are far apart, one of every parameter value among them."""
    data = problem.train
    states = data.states[:, :-1].flatten(0, 1)
    forcing = None if data.forcing is None else data.forcing[:, :-1].flatten(0, 1)
    points = _key(problem)(states, forcing).flatten(1)
    chosen = farthest_points(points, count, _groups(problem)).to(states.device)
    return Step(
        solver,
        states[chosen],
        None if forcing is None else forcing[chosen],
        problem.stepped.flatten(0, 1)[chosen],
    )


def _parameters(problem: Problem) -> Tensor | None:
    """The forcing of each run where it stays the same: it then is a parameter of the run."""
    forcing = problem.train.forcing
    if forcing is None or not torch.equal(forcing, forcing[:, :1].expand_as(forcing)):
        return None
    return forcing[:, 0]


def _groups(problem: Problem) -> Tensor | None:
    """Which parameter value each training state belongs to; each gets its share of snapshots."""
    values = _parameters(problem)
    if values is None:
        return None
    _, groups = torch.unique(values.flatten(1).cpu(), dim=0, return_inverse=True)
    members: Tensor = groups.repeat_interleave(problem.train.steps)
    return members


def _key(problem: Problem) -> Key:
    varies = _parameters(problem) is not None
    return Key(problem.scale, problem.train.forcing_scale() if varies else None)


def _rows(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    found = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]
    return [row for row in found if len(row) == len(_HEAD)]


def _write(path: Path, rows: list[list[str]]) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
