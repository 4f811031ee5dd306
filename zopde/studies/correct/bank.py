"""The bank of a run: Jacobians that are measured once, kept, found again and watched."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from zopde.contracts import Solver
from zopde.files import read_rows, reading, replacing
from zopde.grid import Grid
from zopde.interface import (
    Bank,
    BankPullback,
    Form,
    JacobianStore,
    Key,
    Probing,
    Pullback,
    Step,
    Variable,
    Watch,
    by_variable,
    farthest_points,
    form_for,
)
from zopde.interface.vjp import varied_shape
from zopde.progress import Progress, Silent
from zopde.seeding import generator
from zopde.studies.correct.problem import InterfaceCut, Problem

WATCH = "watch.csv"
_NEAR = 5  # cells along each axis
_HEAD = ("iteration", "mean_agreement", "least_agreement", "snapshots", "fallbacks")


@dataclass(frozen=True)
class Keeping:
    """Where the Jacobians of a run lie, and who measures them."""

    identity: str = ""  # what decides the solver's answers
    # Those of the first snapshots, for every run with the same solver and data; None for memory
    shared: Path | None = None
    # What the watch saw and added, of this label and seed alone; None for memory
    own: Path | None = None
    executor: Executor | None = None  # worker processes; None is this process
    progress: Progress = field(default_factory=Silent)  # who is watching


class BankAt:
    """Iteration -> a pullback that looks Jacobians up, and on some iterations watches them.

    The banks are a function of the data and of the iterations so far: what a watch added after
    the point from which a run is resumed is forgotten, and found again. `counter` counts the steps
    of the first snapshots; the steps that are watched bring their own. `fallback` serves where a
    watch finds no agreement and no room.
    """

    def __init__(
        self,
        cut: InterfaceCut,
        problem: Problem,
        counter: Solver,
        seed: int,
        keeping: Keeping,
        fallback: Pullback | None = None,
    ) -> None:
        self._cut, self._seed, self._solver = cut, seed, problem.solver
        scales = problem.scales(cut)
        self._every = cut.watch_every or cut.check_every
        self._own, self._fallback = keeping.own, fallback
        self._watches: list[Watch] = []
        self._at, self._started = 0, False
        self._kept = JacobianStore(self._file("bank"), keeping.identity)
        grid = problem.solver.grid
        self.solver_steps = steps_of_bank(cut, grid, problem.variables)
        title = f"{cut.snapshots * len(scales)} Jacobians"
        with keeping.progress.stage(title, self.solver_steps) as advance:
            shared = JacobianStore(keeping.shared, keeping.identity, advance)
            forms = forms_of_bank(cut, grid, problem.variables)
            snapshots, key = _snapshots(problem, counter, cut.snapshots)
            self.banks = {
                variable: Bank(
                    form,
                    cut.snapshots + cut.more_snapshots,
                    key,
                    variable,
                    Probing(cut.mu, cut.scheme, cut.states, keeping.executor, scales[variable]),
                    shared,
                    self._file(f"bank/{variable}.pt"),
                )
                for variable, form in forms.items()
            }
            for bank in self.banks.values():
                bank.add(snapshots)
        self._measured = shared.solver_steps

    def _file(self, name: str) -> Path | None:
        return None if self._own is None else self._own / name

    def __call__(self, iteration: int) -> Pullback:
        """The pullback of one iteration."""
        if not self._started:  # what came later than this belongs to a run that was cut off
            for bank in self.banks.values():
                bank.restore(self._solver, iteration, self._kept)
            self._started = True
        self._write(iteration)
        cut, draws = self._cut, generator(self._seed, "probes", iteration)
        watches: dict[Variable, Watch] = {}
        if self._every and iteration % self._every == 0:
            below = cut.watch_below if cut.watch_every else 0.0
            settings = below, cut.mu, iteration, self._kept, self._fallback, not cut.watch_every
            watches = {variable: Watch(draws, *settings) for variable in self.banks}
            self._at, self._watches = iteration, list(watches.values())
        return by_variable(
            {v: BankPullback(b, cut.lookup, watches.get(v), 0) for v, b in self.banks.items()}
        )

    def agreement(self) -> float | None:
        """What this iteration's watch has seen, the mean; None where it did not look."""
        seen = self._agreements()
        return sum(seen) / len(seen) if seen else None

    def _agreements(self) -> list[float]:
        return [cosine for watch in self._watches for cosine in watch.agreements]

    def _count(self) -> int:
        return sum(map(len, self.banks.values()))

    def _write(self, iteration: int) -> None:
        """Append what the latest watch saw to its file; rows from `iteration` on are dropped."""
        file, mean = self._file(WATCH), self.agreement()
        if self._every and file is not None:
            rows = [row for row in _read_rows(file) if row[0] < iteration]
            if mean is not None:
                fell_back = sum(watch.fell_back for watch in self._watches)
                least = min(self._agreements())
                rows.append((self._at, mean, least, self._count(), fell_back))
            with replacing(file) as partial, partial.open("w", newline="", encoding="utf-8") as out:
                csv.writer(out).writerows([_HEAD, *rows])
        self._watches = []

    def finish(self, iteration: int) -> str:
        """Write what is left, and say in a line what the watch saw."""
        self._write(iteration)
        file = self._file(WATCH)
        rows = [] if file is None else _read_rows(file)
        if not rows:
            return ""
        _, means, least, counts, fallbacks = zip(*rows, strict=True)
        added = counts[-1] - self._cut.snapshots * len(self.banks)
        text = f"bank and solver agree {fmean(means):.4f} on average, {min(least):.4f} "
        text += f"at the least; {added} snapshots added"
        if min(least) < self._cut.watch_below and not self._cut.watch_every:
            text += ": the bank fits badly, see interface.watch_every and more_snapshots"
        if sum(fallbacks):
            text += f"; {self._cut.fallback} answered {sum(fallbacks)} products instead"
        return text

    @property
    def note(self) -> str:
        """What the banks hold, and what it took."""
        now = f", {self._measured:,} of them now"
        if self._measured == self.solver_steps:
            now = " once"
        elif not self._measured:
            now = " once before, none now"
        text = f"{self._count()} Jacobians, {self.solver_steps:,} solver steps{now}"
        lost = {bank.form.name: bank.error for bank in self.banks.values() if bank.error}
        for name, error in lost.items():
            text += f"; {name}: {100 * error:.2g} % of a Jacobian is lost"
        return text


def forms_of_bank(
    cut: InterfaceCut, grid: Grid, variables: Iterable[Variable]
) -> dict[Variable, Form]:
    """How Jacobians of each variable are kept; the banks share the limit."""
    count, inputs = cut.snapshots + cut.more_snapshots, list(variables)
    limit, near = cut.limit_gib / len(inputs), tuple(cut.near) or (_NEAR,) * len(grid.shape)
    return {v: form_for(grid, v, count, limit, near, cut.rank) for v in inputs}


def steps_of_bank(cut: InterfaceCut, grid: Grid, variables: Iterable[Variable]) -> int:
    """Solver steps that the first snapshots take, in this process or in one before."""
    entries = sum(math.prod(varied_shape(grid, variable)) for variable in variables)
    return cut.snapshots * cut.sides * entries


def _snapshots(problem: Problem, solver: Solver, count: int) -> tuple[Step, Key]:
    """States of the training data that are far apart, one of every parameter value among them.

    A forcing that stays the same throughout each run is a parameter of the run: distances count
    it, and each of its values gets its share of the snapshots.
    """
    forcing, scale, groups = problem.train.forcing, None, None
    if forcing is not None and torch.equal(forcing, forcing[:, :1].expand_as(forcing)):
        scale = problem.train.forcing_scale()
        values: Tensor = forcing[:, 0].flatten(1).cpu()
        _, runs = torch.unique(values, dim=0, return_inverse=True)
        groups = runs.repeat_interleave(problem.train.steps)
    rows = problem.answered
    key, stored = Key(problem.scale, scale), problem.stored_steps(solver, rows)
    points = key(stored.state, stored.forcing).flatten(1)
    chosen = farthest_points(points, count, None if groups is None else groups[rows])
    return problem.stored_steps(solver, rows[chosen.cpu()]), key


def _read_rows(path: Path) -> list[tuple[int, float, float, int, int]]:
    """What a watch saw; a last row that is cut short is none."""
    remedy = "restore it, or start over with --overwrite"
    with reading("file", path, "what the run wrote", remedy):
        return [
            (int(iteration), float(mean), float(least), int(count), int(fallbacks))
            for iteration, mean, least, count, fallbacks in read_rows(path)[1:]
        ]
