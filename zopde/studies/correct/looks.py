"""Watching a derivative in a run: what the looks at it saw, in a file of the run."""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from zopde.files import read_rows, reading, write_rows
from zopde.interface import Agreement, Pullback, Step, Variable, Watch
from zopde.progress import Progress, Silent
from zopde.seeding import generator
from zopde.studies.correct.cuts import InterfaceCut
from zopde.training.quality import Quality
from zopde.training.signal import Signal

WATCH = "watch.csv"
SIGNAL = "signal.csv"
AGAIN = "restore it, or start over with --overwrite"


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

    def folder_of(self, owner: object) -> Path:
        """`own`, or, without one, a folder that is there as long as `owner`."""
        if self.own is not None:
            return self.own
        folder = Path(tempfile.mkdtemp(prefix="zopde-"))
        weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
        return folder


class Look(NamedTuple):
    """What a watch saw at one iteration; a row of its file."""

    iteration: int  # counted from 0
    agreement: float  # the least cosine of this iteration
    error: float  # the largest relative error; NaN where an earlier version did not look at it
    snapshots: int  # of the bank, or repairs of the tangent, when it had been looked
    fallback: int  # 1 if from then on the fallback gives the products, else 0


Mend = Callable[[int, Variable, Step], bool]
"""Iteration, input, a step of one state -> whether the derivative was mended there."""


class Looks:
    """Gives every iteration its watches, and keeps what they saw.

    On one of every `watch_every` iterations, one product of each input, drawn at random, is
    looked at. What a watch saw after the point from which a run is resumed is forgotten, and found
    again.

    Args:
        cut: When it is looked, and what is good enough.
        seed: Of what is drawn.
        products: How many there are in a backward pass.
        own: The folder of the label and seed; None for memory.
        mend: What mends the derivative.
        fallback: What serves where that could not.
    """

    def __init__(
        self,
        cut: InterfaceCut,
        seed: int,
        products: Mapping[Variable, int],
        own: Path | None,
        mend: Mend,
        fallback: Pullback | None,
    ) -> None:
        self._cut, self._seed, self._products, self._mend = cut, seed, products, mend
        self._file, self._fallback = None if own is None else own / WATCH, fallback
        self._watches: list[Watch] = []
        self._at, self._rows, self._started = 0, list[Look](), False

    def watches(self, iteration: int, above: float = math.inf) -> dict[Variable, Watch]:
        """Of every input; `above` is the relative error from which on it is mended."""
        serving = any(watch.serving for watch in self._watches)
        if not self._started:  # what came later than this belongs to a run that was cut off
            self._rows, self._started = self._before(iteration), True
            serving = bool(self._rows and self._rows[-1].fallback)
        cut, draws = self._cut, generator(self._seed, "probes", iteration)
        due = bool(cut.watch_every) and iteration % cut.watch_every == 0
        watches: dict[Variable, Watch] = {}
        for variable, count in self._products.items():
            at = [int(torch.randint(count, (1,), generator=draws))] if due and count else []
            mend = partial(self._mend, iteration, variable)
            what = draws, cut.watch_below, at, mend, self._fallback, serving, above
            watches[variable] = Watch(*what)
        self._at, self._watches = iteration, list(watches.values())
        return watches

    def agreement(self, snapshots: int) -> Agreement | None:
        """What this iteration's watch saw, the worst, kept in its file; None without a look."""
        seen = [look for watch in self._watches for look in watch.seen]
        if not seen:
            return None
        worst = Agreement(min(s.cosine for s in seen), max(s.error for s in seen))
        serving = any(watch.serving for watch in self._watches)
        self._rows.append(Look(self._at, worst.cosine, worst.error, snapshots, int(serving)))
        if self._file is not None:
            write_rows(self._file, [Look._fields, *self._rows])
        return worst

    def said(self, iteration: int, what: str) -> tuple[str, list[Look]]:
        """What `what` and the solver agreed before an iteration, in words; and every look."""
        looks = self._rows if self._started else self._before(iteration)
        if not looks:
            return "", looks
        least = min(look.agreement for look in looks)
        mean = fmean(look.agreement for look in looks)
        errors = [look.error for look in looks if not math.isnan(look.error)]
        text = f"{what} and solver agree {mean:.4f} on average, {least:.4f} at the least"
        text += f", off by {max(errors):.2g} at the most" if errors else ""
        if fell := sum(look.fallback for look in looks):
            text += f"; {self._cut.fallback} served after {fell} of {len(looks)} looks"
        return text, looks

    def _before(self, iteration: int) -> list[Look]:
        rows = _read_looks(self._file) if self._file is not None and self._file.exists() else []
        return [look for look in rows if look.iteration < iteration]


def _read_looks(path: Path) -> list[Look]:
    """What a watch saw; a last row that is cut short is none."""
    with reading("file", path, "what the run wrote", AGAIN):
        head, *whole = read_rows(path)
        if "error" not in head:  # an earlier version: mean and least agreement, then as now
            whole = [[row[0], row[2], "nan", row[3], str(int(row[4] != "0"))] for row in whole]
        return [Look(int(i), float(a), float(e), int(n), int(f)) for i, a, e, n, f in whole]


def add_look(path: Path, seen: Signal | Quality) -> None:
    """Write a row behind those of earlier iterations; what came later is found again."""
    with reading("file", path, "what the run wrote", AGAIN):
        rows = read_rows(path)[1:] if path.exists() else []
        kept = [row for row in rows if int(row[0]) < seen.iteration]
    write_rows(path, [seen._fields, *kept, seen])


@dataclass
class Signals:
    """Keeps what looks at the gradients of a training saw, and says once where chaos drowns them.

    What was seen after the point from which a run is resumed is forgotten, and found again.
    """

    file: Path
    title: str  # of the training
    unroll: int  # steps of a window
    say: Callable[[str], None]
    _said: bool = field(default=False, init=False)

    def tell(self, seen: Signal) -> None:
        """Write a row, and warn where the gradient is lost."""
        add_look(self.file, seen)
        if seen.is_lost and not self._said:
            self._said = True
            self.say(
                f"{self.title}, iteration {seen.iteration}: the gradient over {self.unroll} steps "
                f"is {seen.growth:.1g} times that over a quarter of them, and its noise "
                f"{seen.noise:.1g} is above its signal {seen.signal:.1g}: the solver is chaotic, "
                "and this derivative useless; take fewer steps (training.unroll), or pull every "
                "step towards the reference, such as training.nudge=0.2"
            )
