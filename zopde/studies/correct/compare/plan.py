"""How many iterations of a label a number of solver steps pays."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from zopde.files import reading
from zopde.studies.correct.compare.open import Compared, Plan
from zopde.studies.correct.counted import bare_gradient, queries_of_cut, ways_of
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.price import (
    measured_coloured,
    sample_interface,
    stand_in_ratios,
    steps_compared,
    steps_per_query,
)
from zopde.studies.correct.quality import forward_steps, rating_of
from zopde.studies.correct.train import label_stage, looks_of
from zopde.studies.price import comparisons
from zopde.studies.run import Place
from zopde.studies.scores import queries_of
from zopde.training import EnsembleKalman, EvolutionStrategy, ZerothOrder
from zopde.training.forward import ForwardGradient

PLAN = "plan.json"


@dataclass(frozen=True)
class Count:
    """Solver steps of one training, by its iterations."""

    once: int  # before the first iteration
    each: int  # of an iteration
    looks: Callable[[int], int]  # iterations -> what measures and compares now and then
    check: int  # of what the history counts as one check

    def __call__(self, iterations: int) -> int:
        """All of them; those of the validation are no part of it."""
        return self.once + iterations * self.each + self.looks(iterations)

    def affordable(self, budget: int) -> int:
        """The most iterations that cost no more than the budget; 0 where it pays none."""
        return max(0, bisect_right(range(budget + 1), budget, key=self) - 1)


def planned(opened: Compared, place: Place | None = None) -> Compared:
    """The same, with the iterations of every label; those of a run lie in its folder.

    `place` is None for a dry run, which writes nothing.
    """
    path = place.folder.root / PLAN if place else None
    if path and path.exists():
        expected, remedy = "the plan of the run", "restore it, or start over with --overwrite"
        with reading("file", path, expected, remedy):
            return replace(opened, plans=_read(path.read_text(encoding="utf-8"), opened))
    plans = {label: _plan_of(opened, label) for label in opened.possible}
    opened = replace(opened, plans=plans)
    if place:
        place.folder.write_json(PLAN, {label: vars(plan) for label, plan in plans.items()})
    return opened


def _read(text: str, opened: Compared) -> dict[str, Plan]:
    plans = {label: Plan(**plan) for label, plan in json.loads(text).items()}
    for label in opened.possible:
        if not all(isinstance(n, int) and n >= 0 for n in vars(plans[label]).values()):
            raise ValueError(f"{label}: {plans[label]}")
    return plans


def _plan_of(opened: Compared, name: str) -> Plan:
    if not LABELS[name].trained:
        return Plan(0)
    count = count_of(opened, name)
    if not count.each:
        return Plan(opened.training.iterations)
    iterations = count.affordable(opened.compare.budget)
    trial = count(opened.compare.trial_of(iterations))
    return Plan(iterations, count(1), count.check, trial)


def count_of(opened: Compared, name: str) -> Count:
    """Count the solver steps of a label, of which a sample is made, of an iteration at most."""
    if name in opened.cuts:
        once, each, compared = _of_interface(opened, name)
        check = 1
    else:
        once, each, compared, check = _of_queries(opened, name)

    forward = forward_steps(opened)

    def looks(iterations: int) -> int:
        longer = replace(opened, training=replace(opened.training, iterations=iterations))
        noise = round(looks_of(longer, name) * each)
        return compared(iterations) + noise + rating_of(longer, name).cost(forward, each)

    return Count(once, each, looks, check)


def _of_queries(opened: Compared, name: str) -> tuple[int, int, Callable[[int], int], int]:
    """Steps once, of an iteration, of what verifies its probes, and of one such check."""
    label, network = LABELS[name], opened.new_network(0)
    stage = label_stage(opened, label, network, 0, stand_in_ratios(opened, network))
    a_query = steps_per_query(stage, network) if label.unrolled else 0
    if label.gradient == "backprop":
        return 0, a_query, _nothing, 1
    source, scoring, evaluations = stage.gradient, 0, 0
    if isinstance(source, ForwardGradient):
        return 0, source.directions * a_query, _nothing, 1
    if isinstance(source, ZerothOrder):
        queries = queries_of_cut(opened.weights, source.masks.active)
    else:
        assert isinstance(source, EnsembleKalman | EvolutionStrategy), "all that ask the loss"
        queries = source.members + 1
    if opened.needs_scores(label):
        scoring = queries_of(opened.weights.score, opened.weights.score_directions)
    check = 0 if label.by_residuals else a_query  # an ensemble is verified without the solver
    if check and queries * a_query <= opened.compare.budget:
        evaluations = sum(source(network, stage.objective_at(0), 0).checked.values())

    def verified(iterations: int) -> int:
        return comparisons(iterations) * evaluations * check

    return scoring * a_query, queries * a_query, verified, check


def _nothing(iterations: int) -> int:  # noqa: ARG001 - whatever they are
    """Steps of a label that compares nothing."""
    return 0


def _of_interface(opened: Compared, name: str) -> tuple[int, int, Callable[[int], int]]:
    """Steps once, of an iteration, and (iterations -> steps that compare products)."""
    cut, problem, training = opened.cuts[name], opened.problem, opened.training
    interface, _, once = sample_interface(opened, name)
    assert interface is not None
    batch = training.windows(problem, 0).batch(0).batch
    bare = bare_gradient(problem.injection, training.unroll, batch, 0.0, problem.every)
    coloured = partial(measured_coloured, replace(opened, interface=cut))
    ways = ways_of(cut, problem.solver, bare, coloured, 1, problem.train.states)
    # An emulator is no row of `ways_of`, and its products ask nothing of the solver.
    each = bare.steps if cut.way == "emulator" else ways[cut.way]().steps
    assert each is not None, "else it raises"
    return once + interface.cost.checking, each, partial(steps_compared, interface, cut)
