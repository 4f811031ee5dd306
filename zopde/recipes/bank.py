"""The amortised interface of a run: its bank of Jacobians, filled once, watched and kept."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import final

from zopde.hybrid import CountedSolver
from zopde.interface import AmortisedPullback, Bank, Pullback, Step, Watch, farthest_points
from zopde.recipes.config import CorrectionConfig
from zopde.recipes.problem import Problem
from zopde.seeding import generator

WATCH = "watch.csv"
_BANK = "bank.f32"


@final
class AmortisedAt:
    """Iteration -> a pullback that looks Jacobians up, and on some iterations watches them.

    The bank is a function of the data and of the iterations so far: what a watch added after
    the point from which a run is resumed is forgotten, and found again.

    Args:
        config: The run's settings.
        problem: Solver and data.
        solver: What is asked for the first snapshots; the steps that are watched ask their own.
        seed: The run's.
        mu: Finite-difference step, in the units of the state.
        folder: Where the bank and what the watch saw are kept; None for memory.

    Raises:
        InputError: If the bank is too large, or there is less data than snapshots.
    """

    def __init__(
        self,
        config: CorrectionConfig,
        problem: Problem,
        solver: CountedSolver,
        seed: int,
        mu: float,
        folder: Path | None,
    ) -> None:
        self._table, self._seed, self._mu = config.interface, seed, mu
        self._folder, self._watch, self._started = folder, None, False
        table, grid = self._table, problem.solver.grid
        self.bank = Bank(
            grid,
            table.snapshots + table.more_snapshots,
            problem.scale,
            path=None if folder is None else folder / _BANK,
            limit_gib=table.limit_gib,
        )
        self.solver_steps = steps_of_bank(config, problem)
        self._fill(problem, solver)

    _watch: tuple[int, Watch] | None

    def __call__(self, iteration: int) -> Pullback:
        """The pullback of one iteration."""
        if not self._started:  # what came later than this belongs to a run that was cut off
            self.bank.keep(iteration)
            self._started = True
        self.write(iteration)
        table, watch = self._table, None
        if table.watch_every and iteration % table.watch_every == 0:
            draws = generator(self._seed, "probes", iteration)
            watch = Watch(draws, table.watch_below, self._mu, iteration)
            self._watch = iteration, watch
        return AmortisedPullback(self.bank, table.lookup, watch, table.scheme, table.states)

    def write(self, iteration: int) -> None:
        """Append what the latest watch saw to its file; rows from `iteration` on are dropped."""
        if self._folder is None or not self._table.watch_every:
            return
        path, rows = self._folder / WATCH, []
        if path.exists():
            found = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]
            rows = [row for row in found if len(row) == 4 and int(row[0]) < iteration]
        if self._watch and self._watch[1].agreements:
            seen = self._watch[1].agreements
            mean = sum(seen) / len(seen)
            row = (self._watch[0], mean, min(seen), len(self.bank))
            rows.append([str(value) for value in row])
        self._watch = None
        path.parent.mkdir(parents=True, exist_ok=True)
        head = ["iteration", "mean_agreement", "least_agreement", "snapshots"]
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *rows])
        partial.replace(path)

    def _fill(self, problem: Problem, solver: CountedSolver) -> None:
        """Measure the snapshots that a run before did not."""
        missing = self._table.snapshots - len(self.bank)
        if missing <= 0:
            return
        data = problem.train
        states = data.states[:, :-1].flatten(0, 1)
        forcing = None if data.forcing is None else data.forcing[:, :-1].flatten(0, 1)
        chosen = farthest_points(self.bank.key(states, None), self._table.snapshots)
        for row in chosen[-missing:]:
            at = slice(int(row), int(row) + 1)
            step = Step(
                solver,
                states[at],
                None if forcing is None else forcing[at],
                problem.stepped.flatten(0, 1)[at],
            )
            self.bank.add(step, self._mu, self._table.scheme, self._table.states)


def steps_of_bank(config: CorrectionConfig, problem: Problem) -> int:
    """Solver steps that the first snapshots take, in this process or in one before."""
    table = config.interface
    entries = problem.train.states[0, 0].numel()
    return table.snapshots * entries * (2 if table.scheme == "central" else 1)
