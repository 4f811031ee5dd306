"""The sections of a classification run."""

from __future__ import annotations

from zopde.report.learning import save_learning_curves
from zopde.report.page import Section, drawn, picture, table, text
from zopde.studies.classify.problem import LearningCurve, Point
from zopde.studies.classify.run import mean_curve
from zopde.studies.report.common import (
    again_section,
    asked_section,
    cost_section,
    failures_section,
    kept_picture,
    losses_picture,
    ratios_section,
    state_lead,
)
from zopde.studies.report.runs import FoundRun
from zopde.studies.tables import CLASSIFY_COLUMNS, classify_rows

Points = dict[str, list[tuple[Point, ...]]]


def classification_report(run: FoundRun) -> tuple[str, list[Section]]:
    """(lead, sections) of one run."""
    points = read_points(run)
    losses = losses_picture(run, "loss on the training batches.")
    sections = [
        asked_section(run),
        Section("Result", _result(run, points)),
        Section("Learning", learning_picture(points) + losses),
        Section("What was taken for what", _confusion(run)),
        ratios_section(run),
        cost_section(run),
        failures_section(run),
        again_section(run),
    ]
    return state_lead(run) + _lead(run), sections


def read_points(run: FoundRun) -> Points:
    """Method -> the learning curve of every seed that has one."""
    found: Points = {}
    for label in run.labels:
        curves = [LearningCurve(run.of(label, s) / "learning.csv").points for s in run.seeds]
        kept = [tuple(points) for points in curves if points]
        if kept:
            found[label] = kept
    return found


def learning_picture(points: Points) -> str:
    """Accuracy along the training."""
    curves = [curve for curve in map(mean_curve, points, points.values()) if curve]
    if not curves:
        return ""
    return picture(
        drawn(lambda path: save_learning_curves(path, curves)),
        "Test accuracy against queries and against seconds",
        "Mean over the seeds, as far as all of them got; the layers' scores included.",
    )


def _lead(run: FoundRun) -> str:
    metrics = run.metrics
    if metrics is None:
        return ""
    best = max(metrics["methods"], key=lambda name: metrics["accuracy"][name]["mean"])
    return text(
        f"{metrics['data']}: {metrics['train_images']:,} training and {metrics['test_images']:,} "
        f"test images, a network of {metrics['parameters']:,} weights, seeds "
        f"{', '.join(map(str, run.seeds))}. {best} is right most often: "
        f"{metrics['accuracy'][best]['mean']:.2f} % of the test images.",
        "lead",
    )


def _result(run: FoundRun, points: Points) -> str:
    if run.metrics is not None:
        caption = "Accuracy on the test images; costs of one seed, the mean over the seeds."
        return table(CLASSIFY_COLUMNS, classify_rows(run.metrics), caption)
    if not points:
        return text("No epoch is over yet.")
    rows = []
    for method, curves in points.items():
        for seed, curve in zip(run.seeds, curves, strict=False):
            last = curve[-1]
            rows.append(
                [
                    method,
                    str(seed),
                    f"{last.accuracy:.2f}",
                    f"{last.iteration:,}",
                    f"{last.queries:,}",
                    f"{last.seconds:,.1f}",
                ]
            )
    columns = ("method", "seed", "accuracy % so far", "iterations", "queries", "seconds")
    return table(columns, rows)


def _confusion(run: FoundRun) -> str:
    if run.metrics is None:
        return ""
    caption = "Percent of the images of each class."
    return kept_picture(run, "confusion.png", "Confusion matrices", caption)
