"""What a classification found: its figures, its pictures, its table, its page."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from zopde.numerals import change, count, measured, number
from zopde.oracle.coordinates import reals
from zopde.report.classifiers import draw_confusion, draw_layer_ratios
from zopde.report.curves import CostCurve, draw_learning_curves
from zopde.report.page import Drawn, Section, table, text
from zopde.report.panels import save
from zopde.studies.classify.evaluate import LearningCurve, Point
from zopde.studies.classify.open import Opened
from zopde.studies.classify.train import Trained
from zopde.studies.report.found import FoundRun
from zopde.studies.report.sections import (
    cost_section,
    failures_section,
    kept_picture,
    losses_drawn,
    page_of_run,
    ratios_section,
    result_table,
)
from zopde.studies.run import Metrics, Page, Place, Table, mean_costs, over_seeds, stopped_early

PICTURES = ("learning_curves.png", "confusion.png", "layer_ratios.png")
Points = dict[str, list[Sequence[Point]]]


def metrics_of(opened: Opened, results: Mapping[str, list[Trained]]) -> Metrics:
    """The figures of a finished run."""
    data, network = opened.images.data, opened.new_network(opened.seeds[0])
    metrics: Metrics = {
        "methods": list(results),
        "seeds": list(opened.seeds),
        "data": data.name,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "parameters": sum(reals(p.detach()).numel() for p in network.parameters()),
    }
    first_order = results.get("FO", [])
    for label, trained in results.items():
        accuracies = [result.verdict.accuracy for result in trained]
        gaps = [a - fo.verdict.accuracy for a, fo in zip(accuracies, first_order, strict=False)]
        row: Metrics = {
            "accuracy": over_seeds(accuracies),
            "points_from_fo": fmean(gaps) if gaps else None,
            "loss": fmean(result.verdict.loss for result in trained),
            "confusion": _summed(trained).tolist(),
        }
        for key, value in row.items():
            metrics.setdefault(key, {})[label] = value
    metrics |= mean_costs(results, ("iterations", "queries", "checking", "seconds"))
    metrics["stopped_early"] = stopped_early(results)
    metrics["workers"] = opened.workers.processes
    whose = {"here": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    metrics["peak_memory_mib"] = {
        name: resource.getrusage(who).ru_maxrss // 1024 for name, who in whose.items()
    }
    return metrics


def draw(opened: Opened, results: Mapping[str, list[Trained]], place: Place) -> None:
    """Learning curves, confusion matrices and, where there are some, the layers' ratios."""
    curves, confusion, ratios = (place.folder.root / name for name in PICTURES)
    points = {label: [result.points for result in of] for label, of in results.items()}
    save(draw_learning_curves(_curves(points)), curves)
    matrices = {label: _summed(trained) for label, trained in results.items()}
    save(draw_confusion(matrices, opened.images.data.classes), confusion)
    shares = {label: trained[0].scoring.active_shares for label, trained in results.items()}
    shares = {label: of_label for label, of_label in shares.items() if of_label}
    if shares:
        save(draw_layer_ratios(shares), ratios)


def _curves(points: Points) -> list[CostCurve]:
    """Accuracy along the training, mean over the seeds, as far as all of them got."""
    curves = []
    for label, of_seeds in points.items():
        steps = list(zip(*of_seeds, strict=False))
        if steps:
            queries = [seeds[0].queries for seeds in steps]
            seconds = [fmean(point.seconds for point in seeds) for seeds in steps]
            accuracy = [fmean(point.accuracy for point in seeds) for seeds in steps]
            curves.append(CostCurve(label, queries, seconds, accuracy))
    return curves


def _summed(trained: Sequence[Trained]) -> Tensor:
    return torch.stack([result.verdict.confusion for result in trained]).sum(dim=0)


def table_of(metrics: Mapping[str, Any]) -> Table:
    """The table of results, one row per label."""
    rows, costs = [], ("iterations", "queries", "checking", "seconds")
    for label in metrics["methods"]:
        accuracy, gap = metrics["accuracy"][label], metrics["points_from_fo"][label]
        rows.append(
            [
                label,
                *measured(accuracy["mean"], accuracy["std"], decimals=2),
                "" if gap is None or label == "FO" else change(gap, 2),
                *measured(metrics["loss"][label], decimals=4),
                *(count(metrics[cost][label]) for cost in ("iterations", "queries")),
                count(metrics.get("checking", {}).get(label, 0)),
                number(metrics["seconds"][label]),
            ]
        )
    stopped = metrics["stopped_early"].items()
    return Table(
        f"{metrics['data']}: {metrics['test_images']:,} test images, {metrics['parameters']:,} "
        f"weights, seeds {', '.join(map(str, metrics['seeds']))}",
        ("method", "accuracy %", "± seeds", "vs FO", "loss", *costs),
        rows,
        [f"{label}: stopped early, {why}" for label, why in stopped if why],
    )


def reached(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The mean accuracy of every label."""
    return {label: accuracy["mean"] for label, accuracy in metrics["accuracy"].items()}


def page_of(run: FoundRun) -> Page:
    """The page of one run, finished or not."""
    losses = losses_drawn(run, "loss on the training batches.")
    caption = "Percent of the images of each class."
    confusion = kept_picture(run, PICTURES[1], "Confusion matrices", caption)
    sections = [
        Section("Result", _result(run)),
        Section("Learning", figures={**_accuracy_drawn(run), **losses}),
        Section("What was taken for what", confusion if run.metrics else ""),
        ratios_section(run),
        cost_section(run),
        failures_section(run),
    ]
    return page_of_run(run, _lead, sections)


def glimpse(run: FoundRun) -> str:
    """Accuracy along the training, as far as it got."""
    return "".join(drawn.html for drawn in _accuracy_drawn(run).values())


def _accuracy_drawn(run: FoundRun) -> dict[str, Drawn]:
    curves = _curves(_points(run))
    if not curves:
        return {}
    drawn = Drawn(
        draw_learning_curves(curves),
        "Test accuracy against queries and against seconds",
        "Mean over the seeds, as far as all of them got; the layers' scores included.",
    )
    return {"learning_curves": drawn}


def _points(run: FoundRun) -> Points:
    """Label -> the learning curve of every seed that has one."""
    points: Points = {}
    for label in run.labels:
        curves = [LearningCurve(run.of(label, s) / "learning.csv").points for s in run.seeds]
        points[label] = [curve for curve in curves if curve]
    return points


def _lead(metrics: Metrics) -> str:
    best = max(metrics["methods"], key=lambda name: metrics["accuracy"][name]["mean"])
    return (
        f"{metrics['data']}: {metrics['train_images']:,} training and {metrics['test_images']:,} "
        f"test images, a network of {metrics['parameters']:,} weights, seeds "
        f"{', '.join(map(str, metrics['seeds']))}. {best} is right most often: "
        f"{measured(metrics['accuracy'][best]['mean'], decimals=2)[0]} % of the test images."
    )


def _result(run: FoundRun) -> str:
    if run.metrics is not None:
        caption = "Accuracy on the test images; costs of one seed, the mean over the seeds."
        return result_table(run, caption)
    so_far = []
    for label, curves in _points(run).items():
        for seed, curve in zip(run.seeds, curves, strict=False):
            last = curve[-1]
            counts = map(number, (last.iteration, last.queries, last.seconds))
            so_far.append([label, str(seed), *measured(last.accuracy, decimals=2), *counts])
    heads = ("method", "seed", "accuracy % so far", "iterations", "queries", "seconds")
    return table(heads, so_far) if so_far else text("No epoch is over yet.")
