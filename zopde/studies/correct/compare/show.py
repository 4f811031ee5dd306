"""What a comparison found: its figures, its table in three forms, its picture, its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from zopde.files import write_rows
from zopde.numerals import change, count, number
from zopde.report.compared import Race, draw_race
from zopde.report.page import Section
from zopde.report.panels import save
from zopde.studies.correct import page, show
from zopde.studies.correct.compare.open import Compared
from zopde.studies.correct.compare.train import Point, Rival
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.table import table_of as table_of_correction
from zopde.studies.report.found import FoundRun
from zopde.studies.report.sections import kept_picture
from zopde.studies.run import Metrics, Page, Place, Table

PICTURE, CURVES = "comparison.png", "curves.csv"
TABLES = ("comparison.md", "comparison.csv")


def metrics_of(opened: Compared, results: Mapping[str, list[Rival]]) -> Metrics:
    """The figures of a finished comparison: a correction's, and who spent what to tune."""
    tuned = {label: of_label[0].tuned for label, of_label in results.items()}
    return {
        **show.metrics_of(opened, results),
        "budget": opened.compare.budget,
        "learning_rate": {label: found.rate for label, found in tuned.items()},
        "tuning": {label: found.solver_steps for label, found in tuned.items()},
        "tuning_seconds": {label: round(found.seconds, 3) for label, found in tuned.items()},
        "unpaid": opened.unpaid,
        "steps_of_a_check": {label: opened.plans[label].check for label in results},
    }


def table_of(metrics: Mapping[str, Any]) -> Table:
    """The table of a correction, with learning rates and the steps that found them."""
    plain, base, rows = table_of_correction(metrics), _base(metrics), []
    for label, row in zip(metrics["labels"], plain.rows, strict=True):
        rate = metrics["learning_rate"][label]
        shown = "" if rate is None else number(rate)
        beside = [] if base is None else [_beside(metrics, label, base)]
        rows.append([*row, count(metrics["tuning"][label]), shown, *beside])
    heads = ["tuning", "learning\nrate", *([] if base is None else [f"vs {base}\nby seed"])]
    columns, notes = [*plain.columns, *heads], []
    for label, steps in metrics["unpaid"].items():
        rows.append([label, "unpaid", *[""] * (len(columns) - 2)])
        notes.append(f"{label}: the budget pays no iteration, which takes {steps:,} solver steps.")
    dear = {label: n for label, n in metrics["steps_of_a_check"].items() if n > 1}
    if dear:
        told = ", ".join(f"{label} {steps:,}" for label, steps in dear.items())
        notes.append(f"Checks of these labels are evaluations, of so many solver steps: {told}.")
    title = f"{number(metrics['budget'])} solver steps a training; {plain.title}"
    return replace(plain, title=title, columns=columns, rows=rows, notes=[*notes, *plain.notes])


def _base(metrics: Mapping[str, Any]) -> str | None:
    """The free label beside which the others are set, seed by seed; None without any."""
    return next((label for label in ("NON", "ID") if label in metrics["mae"]), None)


def _beside(metrics: Mapping[str, Any], label: str, base: str) -> str:
    """By how much a label is off the base with the same seed, and in how many seeds it is below."""
    runs, others = metrics["mae"][label]["runs"], metrics["mae"][base]["runs"]
    if label == base or not LABELS[label].trained:
        return ""
    pairs = [
        fmean(own) / fmean(other)
        for own, other in zip(runs, others, strict=True)
        if None not in own and None not in other
    ]
    if not pairs:
        return "diverged"
    below = sum(pair < 1 for pair in pairs)
    return f"{change(100 * (fmean(pairs) - 1))} %, {below} of {len(runs)}"


def draw(opened: Compared, results: Mapping[str, list[Rival]], place: Place) -> None:
    """The pictures of a correction, the race, its points, and the table as Markdown and CSV."""
    show.draw(opened, results, place)
    folder = place.folder
    rows: list[Sequence[object]] = [["label", "seed", *Point.__dataclass_fields__]]
    races, free = [], {}
    for label, of_label in results.items():
        if not any(point.solver_steps for point in of_label[0].curve):
            free[label] = [float(one.evaluation.error.mean_mae.mean()) for one in of_label]
        else:
            races.append(_race(label, [one.curve for one in of_label]))
        for seed, one in zip(opened.seeds, of_label, strict=False):
            rows += [[label, seed, *vars(point).values()] for point in one.curve]
    write_rows(folder.root / CURVES, rows)
    save(draw_race(races, free), folder.root / PICTURE)
    shown = table_of(metrics_of(opened, results))
    heads = [head.replace("\n", " ") for head in shown.columns]
    write_rows(folder.root / TABLES[1], [heads, *shown.rows])
    lines = [heads, ["---"] * len(heads), *shown.rows]
    told = [f"{shown.title}.", "", *(f"| {' | '.join(line)} |" for line in lines), "", *shown.notes]
    folder.write_text(TABLES[0], "\n".join(told) + "\n")


def _race(label: str, curves: Sequence[Sequence[Point]]) -> Race:
    """The curves of all seeds, at every iteration at which one of them has a point."""
    every = sorted({point.iteration for curve in curves for point in curve})
    steps, seconds, errors = [], [], []
    for curve in curves:
        at = [point.iteration for point in curve]
        steps.append(np.interp(every, at, [point.solver_steps for point in curve]))
        seconds.append(np.interp(every, at, [point.seconds for point in curve]))
        reached = np.array([np.nan if point.mae is None else point.mae for point in curve])
        errors.append(reached[np.searchsorted(at, every, side="right") - 1])
    return Race(label, np.mean(steps, axis=0), np.mean(seconds, axis=0), np.array(errors))


def page_of(run: FoundRun) -> Page:
    """The page of a correction, with the race behind its table."""
    plain = page.page_of(run)
    told = "Error of the unseen runs by the weights that did best on the validation so far."
    race = Section("Race", kept_picture(run, PICTURE, "Error against solver steps", told))
    first, table, *rest = plain.sections
    return replace(plain, sections=[first, table, race, *rest])
