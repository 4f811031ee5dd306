"""The training losses of a run, ready to draw."""

from __future__ import annotations

import numpy as np

from zopde.recipes.labels import WAYS
from zopde.recipes.reporting.runs import FoundRun
from zopde.recipes.runfolder import START
from zopde.report.learning import LossCurve


def loss_curves(run: FoundRun) -> list[LossCurve]:
    """One per label that was trained, mean over the seeds, as far as all of them got."""
    curves = []
    for label in run.labels:
        histories = [found for seed in run.seeds if (found := run.history(label, seed))]
        length = min((len(found) for found in histories), default=0)
        if not length:
            continue
        queries, seconds = _before(run, label)
        values = np.array(
            [[(r.queries, r.seconds, r.loss) for r in found[:length]] for found in histories]
        ).mean(axis=0)
        curves.append(
            LossCurve(
                label,
                queries + values[:, 0],
                seconds + values[:, 1],
                values[:, 2],
                apart=run.command == "correct" and not WAYS[label].unrolled,
            )
        )
    return curves


def _before(run: FoundRun, label: str) -> tuple[float, float]:
    """(queries, seconds) of what came before the first iteration, mean over the seeds."""
    if run.command == "defend":  # its histories count from the first question on
        return 0.0, 0.0
    scratch = (
        run.command != "correct"
        or WAYS[label].always_scratch
        or run.settings["training"]["init"] == "scratch"
    )
    spent = []
    for seed in run.seeds:
        rows, scoring = [] if scratch else run.history(START, seed), run.scoring(label, seed)
        start = (rows[-1].queries, rows[-1].seconds) if rows else (0, 0.0)
        scored = (scoring.cost.queries, scoring.cost.seconds) if scoring else (0, 0.0)
        spent.append((start[0] + scored[0], start[1] + scored[1]))
    queries, seconds = np.mean(spent, axis=0)
    return float(queries), float(seconds)
