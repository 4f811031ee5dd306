"""The tangent of a run: learned once, kept, watched, and refitted where it no longer fits."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zopde.contracts import Solver
from zopde.errors import SolverError
from zopde.files import digest_of, identity_of, load_tensors, reading, save_tensors
from zopde.interface import Agreement, Pullback, Step, Variable, by_variable
from zopde.seeding import generator
from zopde.studies.correct.cuts import InterfaceCut
from zopde.studies.correct.looks import Keeping, Looks
from zopde.studies.correct.problem import Problem
from zopde.tangent import Learned, Learning, PairStore, TangentPullback, learn
from zopde.tangent.fit import fit, held_out_error
from zopde.tangent.pairs import joined

_FILE = "tangent.pt"
_COPIES = 8  # of the state at which a tangent is refitted, each moved by smooth noise
_DIRECTIONS = 4  # perturbations of each copy
_WEIGHT = 4  # times that new pairs count in a refit
_SHARE = 0.25  # of the first fit's iterations, in a refit
_WORSE = 1.2  # times the error after a refit: what then calls for the next one


def learning_of(cut: InterfaceCut) -> Learning:
    """How much is measured, and how long it is fitted."""
    return Learning(cut.budget, cut.target, width=cut.width, iterations=cut.fit)


class TangentAt:
    """Iteration -> a pullback by the tangent, which on some iterations is watched.

    The tangent is a function of the data, the solver and the iterations so far. What is measured
    is kept beside the data, for every run with the same solver; the fitted tangent lies there, too,
    and each refit in the folder of the run. A refit that came after the point from which a run is
    resumed is forgotten, and made again.
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
        self._cut, self._keeping, self._fallback = cut, keeping, fallback
        self._probing = problem.probing(cut, keeping.executor)
        self._scale, self._seed = problem.scale, seed
        self._folder = keeping.folder_of(self)
        self._bound, self._started, self._repairs = cut.watch_error, False, 0
        self._looks = Looks(cut, seed, products, keeping.own, self._mend, fallback)
        self.learned = self._learned(problem, counter)
        self.tangent = self.learned.tangent

    def _learned(self, problem: Problem, counter: Solver) -> Learned:
        """The tangent of the data alone, from a file or from the solver."""
        cut, keeping, settings = self._cut, self._keeping, learning_of(self._cut)
        stored = problem.stored_steps(counter, problem.answered)
        with keeping.progress.stage("pairs of the tangent", settings.budget) as advance:
            kept = None if keeping.shared is None else keeping.shared / "pairs"
            self._pairs = PairStore(kept, keeping.identity, advance)
            measured = cut.mu, cut.mu_of, cut.scheme, cut.states, list(self._probing)
            here = stored.state.dtype, stored.state.device, torch.get_num_threads()
            data = digest_of([stored.state, stored.forcing])
            name = f"{keeping.identity} {settings} {measured} {here} {data}"
            files = [self._folder / _FILE]
            if keeping.shared is not None:
                files.append(keeping.shared / f"{identity_of(name)}.tangent")
            return learn(
                *(counter, stored.state, stored.forcing, self._probing, settings, self._pairs),
                *(self._folder / "tangent", 0, files, keeping.progress),
            )

    def __call__(self, iteration: int) -> Pullback:
        """The pullback of one iteration."""
        if not self._started:
            self._restore(iteration)
            self._started = True
        watches = self._looks.watches(iteration, self._bound)
        return by_variable(
            {v: TangentPullback(self.tangent, self._probing[v], watches[v]) for v in self._probing}
        )

    def _restore(self, below: int) -> None:
        """Take the latest refit that came before an iteration."""
        refits = sorted(self._folder.glob("refit-*.pt"), key=lambda path: int(path.stem[6:]))
        before = [path for path in refits if int(path.stem[6:]) < below]
        self._repairs = len(before)
        if before:
            remedy = "restore it, or start over with --overwrite"
            with reading("refit", before[-1], "what a run of zopde wrote", remedy):
                content = load_tensors(before[-1])
                self.tangent.load_state_dict(content["weights"])
                self._bound = content["bound"]

    def _mend(self, iteration: int, variable: Variable, single: Step) -> bool:
        """Measure at the state where the tangent fits badly, and fit on; whether it helped."""
        cut, known = self._cut, self.learned.pairs
        state, forcing = (
            None if field is None else field.expand(_COPIES, *field.shape[1:])
            for field in (single.state, single.forcing)
        )
        assert state is not None
        draws = generator(self._seed, "noise", iteration)
        what = variable, _DIRECTIONS, self._probing[variable], self._scale, draws
        new, held = self._pairs.measure(single.solver, state, forcing, *what).split(4)
        pairs = {v: joined([part, *[new] * _WEIGHT * (v == variable)]) for v, part in known.items()}
        work, iterations = self._folder / f"refit-{iteration}", max(1, int(_SHARE * cut.fit))
        progress, title = self._keeping.progress, f"refit of iteration {iteration}"
        fit(self.tangent, pairs, iterations, work, self._seed, progress, title, _SHARE)
        error = held_out_error(self.tangent, held)
        self._repairs += 1
        if error <= cut.stop_error:
            self._bound = max(self._bound, _WORSE * error)
        content = {"weights": self.tangent.state_dict(), "bound": self._bound}
        save_tensors(self._folder / f"refit-{iteration}.pt", content)
        text = f"iteration {iteration}: the tangent did not fit, and was refitted at that state"
        progress.note(f"{text}: error {error:.2g} there now")
        if error > cut.stop_error and self._fallback is None:
            raise SolverError(
                f"iteration {iteration}: the tangent is off by {error:.2g} of a response after a "
                f"refit, more than interface.stop_error = {cut.stop_error:g}: raise "
                "interface.budget or interface.width, or name an interface.fallback"
            )
        return error <= cut.stop_error

    def agreement(self) -> Agreement | None:
        """What this iteration's watch saw, the worst; None without a look."""
        return self._looks.agreement(self._repairs)

    def finish(self, iteration: int) -> str:
        """Say in a line what the watch saw."""
        text, looks = self._looks.said(iteration, "tangent")
        return f"{text}; {self._repairs} refits" if looks else ""

    @property
    def note(self) -> str:
        """What was measured, and how well the tangent predicts what it has not seen."""
        found, text = self.learned, ""
        for variable, error in found.error.items():
            text += f"; {variable}: error {error:.2g} of a response that was held out, "
            text += f"{found.unlearned[variable]:.2g} without learning"
        return f"tangent, {found.steps:,} solver steps once{text}"
