"""EMU: an emulator of the solver, fitted to its answers and refitted where a training goes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator

from zopde.contracts import Solver
from zopde.files import digest_of, identity_of, load_tensors, reading, save_tensors, write_rows
from zopde.interface import Agreement, Pullback, Step, Variable, Watch, by_variable
from zopde.progress import Silent
from zopde.seeding import generator, global_stream
from zopde.studies.correct.cuts import EmulatorCut, InterfaceCut
from zopde.studies.correct.looks import Keeping, Looks
from zopde.studies.correct.problem import Problem
from zopde.tangent import Emulator, EmulatorPullback, Values, fit_values, value_error
from zopde.tangent.multigrid import PLACES
from zopde.tangent.rounds import sizes_of, varies
from zopde.timing import median_seconds

EMULATOR = "emulator.csv"
_HELD_OUT = 8  # one stored state of so many is not learned from
_REFIT = 0.25  # of the first fit's learning rate, in a refit
_ENTRIES = 2**26  # of the visited states that are kept
_SAMPLE = 2  # iterations of a fit that are timed


class Fit(NamedTuple):
    """How well the emulator predicts the solver's answers; a row of its file."""

    iterations: int  # updates of the corrector before this fit
    stored: float  # error at stored states that were held out, relative to the change in a step
    visited_before: float  # the same at the states just visited, before they were learned
    visited: float  # and then


class EmulatorAt:
    """Iteration -> a pullback by the emulator, which on some iterations is watched.

    One of every `refit_every` iterations keeps the states at which its products are taken, with
    the solver's answers, which the forward pass has paid for. After it the emulator is fitted on,
    to these, those of earlier refits, and the stored ones. The first fit lies beside the data, for
    every run with the same solver; each refit lies in the folder of the run. One that came after
    the point from which a run is resumed is forgotten, and made again.
    """

    def __init__(
        self,
        cut: InterfaceCut,
        settings: EmulatorCut,
        problem: Problem,
        counter: Solver,
        seed: int,
        products: Mapping[Variable, int],
        keeping: Keeping,
        fallback: Pullback | None = None,
    ) -> None:
        self._settings, self._keeping, self._seed = settings, keeping, seed
        self._probing = problem.probing(cut, keeping.executor)
        self._folder = keeping.folder_of(self)
        self._looks = Looks(cut, seed, products, keeping.own, self._badly, fallback)
        # The products of the last input are taken at all steps.
        self._last, (*_, self._steps) = problem.variables[-1], products.values()
        self._at, self._seen, self._started = 0, list[Step](), False
        self._visited, self._told = list[Values](), set[Variable]()
        self.emulator = new_emulator(problem, settings, cut.mu, counter)
        self._stored, self._held = _split(_stored(problem))
        self._fit_first(problem)
        self._fits = [Fit(0, value_error(self.emulator, self._held), math.nan, math.nan)]

    def _fit_first(self, problem: Problem) -> None:
        """To the stored states alone, from a file or anew."""
        settings, keeping, stored = self._settings, self._keeping, self._stored
        like = stored.state.dtype, stored.state.device, torch.get_num_threads()
        data = digest_of([stored.state, stored.forcing, stored.stepped, problem.scale])
        name = f"{keeping.identity} {settings.width} {settings.fit} {like} {data}"
        files = [self._folder / "emulator.pt"]
        if keeping.shared is not None:
            files.append(keeping.shared / f"{identity_of(name)}.emulator")
        if known := next((path for path in files if path.exists()), None):
            with reading("emulator", known, "what a run of zopde wrote", "move it away"):
                self.emulator.load_state_dict(load_tensors(known))
        else:
            how = settings.fit, self._folder / "emulator", keeping.progress, "emulator"
            fit_values(self.emulator, stored, *how)
        for path in files:
            if not path.exists():
                save_tensors(path, self.emulator.state_dict())

    def __call__(self, iteration: int) -> Pullback:
        """The pullback of one iteration."""
        if not self._started:
            self._restore(iteration)
            self._started = True
        self._at, self._seen = iteration, []
        watches, every = self._looks.watches(iteration), self._settings.refit_every
        keeps = bool(every) and (iteration + 1) % every == 0

        def pullback(variable: Variable, watch: Watch) -> Pullback:
            seen = self._see if keeps and variable == self._last else None
            return EmulatorPullback(self.emulator, self._probing[variable], watch, seen)

        return by_variable({v: pullback(v, watches[v]) for v in self._probing})

    def _see(self, step: Step) -> None:
        if len(self._seen) < self._steps:  # later ones are looks at the gradient's noise
            self._seen.append(step)

    def _restore(self, done: int) -> None:
        """Take the refits that came before, with what was visited then."""
        refits = {int(path.stem[6:]): path for path in self._folder.glob("refit-*.pt")}
        for number in sorted(number for number in refits if number <= done):
            remedy = "restore it, or start over with --overwrite"
            with reading("refit", refits[number], "what a run of zopde wrote", remedy):
                content = load_tensors(refits[number])
                self.emulator.load_state_dict(content["weights"])
                fields = (None if x is None else x.to(self._stored.state) for x in content["seen"])
                self._visit(Values(*fields))  # type: ignore[arg-type]
                self._fits.append(Fit(*content["fit"]))

    def _visit(self, values: Values) -> None:
        """Keep these, and of all others as many as there is room for; the oldest go."""
        self._visited.append(values)
        size = self._stored.state[0].numel()
        while len(self._visited) > 1 and sum(map(len, self._visited)) * size > _ENTRIES:
            del self._visited[0]

    def _refit(self) -> None:
        """Learn what the latest iteration has visited."""
        new, settings, done = Values.of(self._seen), self._settings, self._at + 1
        self._seen = []
        if not len(new):
            return
        self._visit(new)
        before = value_error(self.emulator, new)
        with tempfile.TemporaryDirectory(dir=self._folder) as work:
            fit_values(
                *(self.emulator, self._stored, settings.refit, Path(work), Silent(), "refit"),
                seed=int(torch.randint(2**31, (), generator=generator(self._seed, "noise", done))),
                visited=Values.joined(self._visited),
                share=settings.visited,
                rate=_REFIT,
            )
        errors = value_error(self.emulator, self._held), before, value_error(self.emulator, new)
        self._fits.append(Fit(done, *errors))
        seen, weights = [new.state, new.forcing, new.stepped], self.emulator.state_dict()
        content = {"weights": weights, "seen": seen, "fit": list(self._fits[-1])}
        save_tensors(self._folder / f"refit-{done}.pt", content)

    def agreement(self) -> Agreement | None:
        """What this iteration's watch saw, the worst; None without a look. Then a refit, if due."""
        if self._seen:
            self._refit()
        if self._keeping.own is not None:
            write_rows(self._keeping.own / EMULATOR, [Fit._fields, *self._fits])
        return self._looks.agreement(len(self._fits) - 1)

    def _badly(self, iteration: int, variable: Variable, single: Step) -> bool:  # noqa: ARG002
        if variable not in self._told:
            text = f"iteration {iteration}: the emulator's derivative by the {variable} is not "
            self._keeping.progress.note(f"{text}the solver's, whatever its own error says")
        self._told.add(variable)
        return False

    def finish(self, iteration: int) -> str:
        """Say in a line what the watch saw, and how the emulator's own error went."""
        if not self._started:  # nothing was left to do
            self._restore(iteration)
        text, _ = self._looks.said(iteration, "emulator's derivative")
        last, parts = self._fits[-1], [text] if text else []
        if len(self._fits) > 1:
            own = f"its own error went from {self._fits[1].visited_before:.2g} to "
            parts.append(f"{own}{last.visited:.2g} of a step's change at visited states")
            parts.append(f"{len(self._fits) - 1} refits")
        return "; ".join(parts)

    @property
    def note(self) -> str:
        """What it was fitted to, and how well it predicts what it has not seen."""
        text = f"emulator of {len(self._stored):,} stored answers, error {self._fits[0].stored:.2g}"
        return f"{text} of a step's change at others"


def new_emulator(
    problem: Problem, settings: EmulatorCut, mu: float, solver: Solver | None = None
) -> Emulator:
    """One that knows the sizes of things, and nothing else.

    Where `solver` is given, two steps at most tell whether it is the same everywhere.
    """
    stored, grid = _stored(problem), problem.solver.grid
    changed = grid.fluid_values(stored.stepped - stored.state).transpose(0, 1).flatten(1)
    change = changed.square().mean(dim=1).sqrt()
    change = torch.where(change > 0, change, 1.0)
    forcing = stored.forcing
    drive = None if forcing is None else sizes_of(problem.solver, forcing, mu)
    places = PLACES if solver is None or varies(solver, stored.state, forcing) else 0
    with global_stream(generator(0, "weights")):
        made = Emulator(grid, problem.scale, change, drive, settings.width, places)
    return made.to(problem.scale)


def _stored(problem: Problem) -> Values:
    step = problem.stored_steps(problem.solver, problem.answered)
    return Values(step.state, step.forcing, step.stepped)


def _split(values: Values) -> tuple[Values, Values]:
    """What is learned, and what is held out; of few, the same twice."""
    held = torch.arange(len(values)) % _HELD_OUT == _HELD_OUT - 1
    if not bool(held.any()):
        return values, values
    return values.at(~held), values.at(held)


def iterations_of_fits(settings: EmulatorCut, iterations: int) -> int:
    """Of the first fit and all refits of a training of so many iterations."""
    every = settings.refit_every
    return settings.fit + settings.refit * (iterations // every if every else 0)


def unfitted_products(
    problem: Problem, settings: EmulatorCut, mu: float, solver: Solver
) -> Pullback:
    """Products that take as long as a fitted emulator's, and are watched by nobody."""
    emulator, unwatched = new_emulator(problem, settings, mu, solver), Watch(Generator(), at=())
    return by_variable({v: EmulatorPullback(emulator, None, unwatched) for v in problem.variables})


def seconds_of_iteration(problem: Problem, settings: EmulatorCut, mu: float) -> float:
    """Time an iteration of a fit; no solver step is made."""
    emulator, stored = new_emulator(problem, settings, mu), _stored(problem)

    def few() -> None:
        with tempfile.TemporaryDirectory() as work:
            fit_values(emulator, stored, _SAMPLE, Path(work), Silent(), "sample")

    return median_seconds(few) / _SAMPLE
