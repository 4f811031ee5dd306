"""Training one label with one seed: its learning rate, its training, its error along the way."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from zopde.files import load_tensors, reading, write_text
from zopde.studies.correct.compare.open import Compared
from zopde.studies.correct.evaluate import evaluate, finite
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.train import START, Trained, fit_label
from zopde.studies.correct.train import train as train_label
from zopde.studies.run import Place
from zopde.training import Fitted, read_history
from zopde.training.callbacks import Event

_TUNED, _CURVE = "tuning.json", "curve.json"
_KEPT = "what the run wrote", "restore it, or start over with --overwrite"


@dataclass(frozen=True)
class Tuned:
    """The learning rate of a label, and what it took to find it."""

    rate: float | None  # None of a label that has none
    solver_steps: int = 0  # of all trials, those of the validation included
    seconds: float = 0.0


@dataclass(frozen=True)
class Point:
    """What a training had reached, and for what, when it was looked at."""

    iteration: int
    solver_steps: int  # all but those of the validation
    seconds: float
    mae: float | None  # of the unseen runs, by the best weights so far; None: they diverged


@dataclass(frozen=True, kw_only=True)
class Rival(Trained):
    """What became of a label with one seed, and the way there."""

    tuned: Tuned
    curve: list[Point]  # empty of a label that is not trained


@dataclass(frozen=True)
class _Trial(Place):
    """Where a learning rate is tried: inside the folder of the training; NON-start is shared."""

    rate: float = 0.0

    def of(self, label: str, seed: int) -> Path:
        own = super().of(label, seed)
        return own if label == START else own / "tuning" / f"{self.rate:.4g}"

    def tell(self, event: Event) -> None:
        super().tell(replace(event, label=f"{event.label}, learning rate {self.rate:.4g}"))


def train(opened: Compared, name: str, seed: int, place: Place) -> Rival:
    """Tune the label `name`, train it, roll the unseen runs out, and judge its looks."""
    if not LABELS[name].trained:
        return Rival(**vars(train_label(opened, name, seed, place)), tuned=Tuned(None), curve=[])
    tuned = _tuned(opened, name, place)
    folder = place.of(name, seed)
    planned = opened.lasting(opened.plans[name].iterations, tuned.rate or opened.rate)
    planned = replace(planned, looks=folder / "looks")
    trained = train_label(planned, name, seed, place)
    return Rival(**vars(trained), tuned=tuned, curve=_curve(planned, name, folder, trained.cost))


def _tuned(opened: Compared, name: str, place: Place) -> Tuned:
    """Try some learning rates with the first seed, or read what was found."""
    if LABELS[name].by_residuals:
        return Tuned(None)
    rates, seed = opened.compare.rates_around(opened.rate), opened.seeds[0]
    if len(rates) == 1:
        return Tuned(opened.rate)
    path = place.of(name, seed) / _TUNED
    if path.exists():
        with reading("file", path, *_KEPT):
            return Tuned(**json.loads(path.read_text(encoding="utf-8"))["found"])
    iterations = opened.compare.trial_of(opened.plans[name].iterations)
    losses, costs = {}, list[Fitted]()
    for rate in rates:
        trial = _Trial(place.folder, place.progress, place.pool, place.callbacks, rate)
        shortened, network = opened.lasting(iterations, rate), opened.new_network(seed)
        costs.append(fit_label(shortened, name, network, seed, trial))
        found = costs[-1].validation
        losses[rate] = math.inf if found is None else found
    best = min(rates, key=lambda rate: losses[rate])
    told = ", ".join(f"{rate:.4g}: {losses[rate]:.4g}" for rate in sorted(rates))
    place.progress.note(f"{name}: learning rate {best:.4g}; validation losses of {told}")
    check = opened.plans[name].check
    steps = sum(c.solver_steps + check * c.checking + c.validating for c in costs)
    tuned = Tuned(best, steps, sum(c.seconds for c in costs))
    kept = {"found": vars(tuned), "losses": {f"{r:.4g}": finite(losses[r]) for r in rates}}
    write_text(path, json.dumps(kept, indent=2, allow_nan=False) + "\n")
    return tuned


def _curve(opened: Compared, name: str, folder: Path, cost: Fitted) -> list[Point]:
    """The error on the unseen runs at every look that found better weights, and at the end."""
    path, looks = folder / _CURVE, opened.looks
    assert looks is not None
    if path.exists():
        with reading("file", path, *_KEPT):
            return [Point(**point) for point in json.loads(path.read_text(encoding="utf-8"))]
    spent, points = _spent(folder, cost, opened.plans[name].check), []
    network = opened.new_network(0).eval()
    for look in sorted(looks.glob("*.pt"), key=lambda look: int(look.stem)):
        with reading("file", look, *_KEPT):
            network.load_state_dict(load_tensors(look))
        points.append(Point(int(look.stem), *spent[int(look.stem)], _error(opened, network)))
    if points[-1].iteration < len(spent) - 1:  # nothing better was found until the end
        points.append(Point(len(spent) - 1, *spent[-1], points[-1].mae))
    write_text(path, json.dumps([vars(point) for point in points], allow_nan=False) + "\n")
    shutil.rmtree(looks)
    return points


def _spent(folder: Path, cost: Fitted, check: int) -> list[tuple[int, float]]:
    """Solver steps and seconds before each iteration, and after the last one.

    The history of a training tells nothing of what came before it.
    """
    rows = read_history(folder / "history.csv")
    spent = [(0, 0.0)]
    spent += [(row.solver_steps + check * row.checking, row.seconds) for row in rows]
    steps = cost.solver_steps + check * cost.checking - spent[-1][0]
    seconds = cost.seconds - spent[-1][1]
    return [(steps + a, seconds + b) for a, b in spent]


def _error(opened: Compared, network: nn.Module) -> float | None:
    """The mean absolute error of a network on the unseen runs; None where one diverges."""
    problem = opened.problem
    evaluation = evaluate(opened.bearing, problem.test, network, every=problem.every)
    return finite(evaluation.error.mean_mae.mean())
