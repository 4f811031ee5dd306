"""The bank of a run: Jacobians that are measured once, kept, found again and watched."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from zopde.contracts import Solver
from zopde.files import reading, replacing
from zopde.grid import Grid
from zopde.interface import (
    Agreement,
    Bank,
    BankPullback,
    JacobianStore,
    Key,
    Probing,
    Pullback,
    Step,
    Variable,
    Watch,
    by_variable,
    farthest_points,
)
from zopde.interface.bank import check_bank_fits
from zopde.interface.vjp import varied_shape
from zopde.progress import Progress, Silent
from zopde.seeding import generator
from zopde.studies.correct.problem import InterfaceCut, Problem

WATCH = "watch.csv"


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


class Look(NamedTuple):
    """What a watch saw at one iteration; a row of its file."""

    iteration: int  # counted from 0
    agreement: float  # the least cosine of this iteration
    error: float  # the largest relative error; NaN where an earlier version did not look at it
    snapshots: int  # of all banks, when it had been looked
    fallback: int  # 1 if from then on the fallback gives the products, else 0


class BankAt:
    """Iteration -> a pullback that looks Jacobians up, and on some iterations watches them.

    The banks are a function of the data and of the iterations so far: what a watch added after
    the point from which a run is resumed is forgotten, and found again. `counter` counts the steps
    of the first snapshots; the steps that are watched bring their own. `products` says how many
    there are in a backward pass, of which a watch looks at one. Where it finds no agreement and no
    room, `fallback` serves until a look finds agreement.
    """

    def __init__(
        self,
        cut: InterfaceCut,
        problem: Problem,
        counter: Solver,
        seed: int,
        products: Mapping[Variable, int],
        keeping: Keeping,
        fallback: Pullback | None = None,
    ) -> None:
        self._cut, self._seed, self._solver = cut, seed, problem.solver
        scales, self._products = problem.scales(cut), products
        self._own, self._fallback = keeping.own, fallback
        self._watches: list[Watch] = []
        self._at, self._looks, self._started = 0, list[Look](), False
        self._kept = JacobianStore(self._file("bank"), keeping.identity)
        grid = problem.solver.grid
        self.solver_steps = steps_of_bank(cut, grid, problem.variables)
        title = f"{cut.snapshots * len(scales)} Jacobians"
        with keeping.progress.stage(title, self.solver_steps) as advance:
            shared = JacobianStore(keeping.shared, keeping.identity, advance)
            snapshots, key = _snapshots(problem, counter, cut.snapshots)
            self.banks = {
                variable: Bank(
                    cut.snapshots + cut.more_snapshots,
                    key,
                    variable,
                    Probing(cut.mu, cut.scheme, cut.states, keeping.executor, scale),
                    shared,
                    self._file(f"bank/{variable}.pt"),
                    cut.limit_gib / len(scales),
                )
                for variable, scale in scales.items()
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
            self._looks, self._started = self._looks_before(iteration), True
            serving = bool(self._looks and self._looks[-1].fallback)
        else:
            serving = any(watch.serving for watch in self._watches)
        cut, draws = self._cut, generator(self._seed, "probes", iteration)
        due = bool(cut.watch_every) and iteration % cut.watch_every == 0
        watches: dict[Variable, Watch] = {}
        for variable, bank in self.banks.items():
            count = self._products[variable]
            at = [int(torch.randint(count, (1,), generator=draws))] if due and count else []
            mend = partial(bank.mend, tag=iteration, store=self._kept)
            watches[variable] = Watch(draws, cut.watch_below, at, mend, self._fallback, serving)
        self._at, self._watches = iteration, list(watches.values())
        return by_variable(
            {v: BankPullback(b, cut.lookup, watches[v]) for v, b in self.banks.items()}
        )

    def agreement(self) -> Agreement | None:
        """What this iteration's watch saw, the worst, kept in its file; None without a look."""
        seen = [look for watch in self._watches for look in watch.seen]
        if not seen:
            return None
        worst = Agreement(min(s.cosine for s in seen), max(s.error for s in seen))
        serving = any(watch.serving for watch in self._watches)
        count = sum(map(len, self.banks.values()))
        self._looks.append(Look(self._at, worst.cosine, worst.error, count, int(serving)))
        if (file := self._file(WATCH)) is not None:
            with replacing(file) as whole, whole.open("w", newline="", encoding="utf-8") as out:
                csv.writer(out).writerows([Look._fields, *self._looks])
        return worst

    def finish(self, iteration: int) -> str:
        """Say in a line what the watch saw."""
        looks = self._looks if self._started else self._looks_before(iteration)
        if not looks:
            return ""
        least, cut = min(look.agreement for look in looks), self._cut
        mean = fmean(look.agreement for look in looks)
        errors = [look.error for look in looks if not math.isnan(look.error)]
        added = looks[-1].snapshots - cut.snapshots * len(self.banks)
        text = f"bank and solver agree {mean:.4f} on average, {least:.4f} at the least"
        text += f", off by {max(errors):.2g} at the most" if errors else ""
        text += f"; {added} snapshots added"
        if fell := sum(look.fallback for look in looks):
            return f"{text}; {cut.fallback} served after {fell} of {len(looks)} looks"
        if least < cut.watch_below:
            text += ": the bank fits badly, see interface.more_snapshots and fallback"
        return text

    def _looks_before(self, iteration: int) -> list[Look]:
        file = self._file(WATCH)
        rows = _read_looks(file) if file is not None and file.exists() else []
        return [look for look in rows if look.iteration < iteration]

    @property
    def note(self) -> str:
        """What the banks hold, and what it took."""
        now = f", {self._measured:,} of them now"
        if self._measured == self.solver_steps:
            now = " once"
        elif not self._measured:
            now = " once before, none now"
        count = sum(map(len, self.banks.values()))
        return f"{count} Jacobians, {self.solver_steps:,} solver steps{now}"


def check_bank(cut: InterfaceCut, grid: Grid, variables: Iterable[Variable]) -> None:
    """Require that the banks of all variables, which share the limit, fit into it."""
    count, inputs = cut.snapshots + cut.more_snapshots, list(variables)
    for variable in inputs:
        sizes = math.prod(varied_shape(grid, variable)), math.prod(grid.state_shape)
        check_bank_fits(count, *sizes, cut.limit_gib / len(inputs))


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


def _read_looks(path: Path) -> list[Look]:
    """What a watch saw; a row that is cut short is no row."""
    with reading("file", path, "what the run wrote", "start over with --overwrite"):
        head, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
        whole = [row for row in rows if len(row) == len(Look._fields)]
        if "error" not in head:  # an earlier version: mean and least agreement, then as now
            whole = [[row[0], row[2], "nan", row[3], str(int(row[4] != "0"))] for row in whole]
        return [Look(int(i), float(a), float(e), int(n), int(f)) for i, a, e, n, f in whole]
