"""The bank of a run: Jacobians that are measured once, kept, found again and watched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from zopde.contracts import Domain, Solver
from zopde.interface import (
    Agreement,
    Bank,
    BankPullback,
    JacobianStore,
    Key,
    Pullback,
    Step,
    Variable,
    by_variable,
    farthest_points,
)
from zopde.interface.bank import check_banks_fit
from zopde.interface.vjp import entries_of
from zopde.studies.correct.cuts import InterfaceCut
from zopde.studies.correct.looks import Keeping, Looks
from zopde.studies.correct.problem import Problem


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
        self._cut, self._solver = cut, problem.solver
        probing = problem.probing(cut, keeping.executor)
        self._own, self._started = keeping.own, False
        self._looks = Looks(cut, seed, products, keeping.own, self._mend, fallback)
        self._kept = JacobianStore(self._file("bank"), keeping.identity)
        grid = problem.solver.grid
        self.solver_steps = steps_of_bank(cut, grid, problem.variables)
        title = f"{cut.snapshots * len(probing)} Jacobians"
        with keeping.progress.stage(title, self.solver_steps) as advance:
            shared = JacobianStore(keeping.shared, keeping.identity, advance)
            snapshots, key = _snapshots(problem, counter, cut.snapshots)
            self.banks = {
                variable: Bank(
                    cut.snapshots + cut.more_snapshots,
                    key,
                    variable,
                    asked,
                    shared,
                    self._file(f"bank/{variable}.pt"),
                    cut.limit_gib / len(probing),
                )
                for variable, asked in probing.items()
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
        watches = self._looks.watches(iteration)
        return by_variable(
            {v: BankPullback(b, self._cut.lookup, watches[v]) for v, b in self.banks.items()}
        )

    def _mend(self, iteration: int, variable: Variable, single: Step) -> bool:
        return self.banks[variable].mend(single, tag=iteration, store=self._kept)

    def agreement(self) -> Agreement | None:
        """What this iteration's watch saw, the worst; None without a look."""
        return self._looks.agreement(self._count())

    def _count(self) -> int:
        return sum(map(len, self.banks.values()))

    def finish(self, iteration: int) -> str:
        """Say in a line what the watch saw."""
        (text, looks), cut = self._looks.said(iteration, "bank"), self._cut
        if not looks:
            return ""
        text += f"; {looks[-1].snapshots - cut.snapshots * len(self.banks)} snapshots added"
        badly = min(look.agreement for look in looks) < cut.watch_below
        if badly and not any(look.fallback for look in looks):
            text += ": the bank fits badly, see interface.more_snapshots and fallback"
        return text

    @property
    def note(self) -> str:
        """What the banks hold, and what it took."""
        now = f", {self._measured:,} of them now"
        if self._measured == self.solver_steps:
            now = " once"
        elif not self._measured:
            now = " once before, none now"
        return f"{self._count()} Jacobians, {self.solver_steps:,} solver steps{now}"


def check_bank(cut: InterfaceCut, grid: Domain, variables: Iterable[Variable]) -> None:
    """Require that the banks of all variables, which share the limit, fit into it."""
    count = cut.snapshots + cut.more_snapshots
    check_banks_fit(count, grid, list(variables), cut.limit_gib)


def steps_of_bank(cut: InterfaceCut, grid: Domain, variables: Iterable[Variable]) -> int:
    """Solver steps that the first snapshots take, in this process or in one before."""
    return cut.snapshots * cut.sides * entries_of(grid, variables)


def _snapshots(problem: Problem, solver: Solver, count: int) -> tuple[Step, Key]:
    """States of the training data that are far apart, one of every parameter value among them.

    A forcing that stays the same throughout each run is a parameter of the run: distances count
    it, and each of its values gets its share of the snapshots.
    """
    forcing, scale, groups = problem.stepped_data.forcing, None, None
    if forcing is not None and torch.equal(forcing, forcing[:, :1].expand_as(forcing)):
        scale = problem.stepped_data.forcing_scale()
        values: Tensor = forcing[:, 0].flatten(1).cpu()
        _, runs = torch.unique(values, dim=0, return_inverse=True)
        groups = runs.repeat_interleave(problem.train.steps)
    rows = problem.answered
    key, stored = Key(problem.scale, scale), problem.stored_steps(solver, rows)
    points = key(stored.state, stored.forcing).flatten(1)
    chosen = farthest_points(points, count, None if groups is None else groups[rows])
    return problem.stored_steps(solver, rows[chosen.cpu()]), key
