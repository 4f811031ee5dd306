"""What a prompting run found: its figures, its picture, its table, its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from zopde.nets.spans import THRESHOLDS
from zopde.numerals import count, measured, number
from zopde.report.page import Section, text
from zopde.report.panels import save
from zopde.report.spans import SpanRow, draw_spans
from zopde.studies.prompt.labels import LABELS, white_box
from zopde.studies.prompt.open import Opened
from zopde.studies.prompt.train import Trained
from zopde.studies.report.found import FoundRun
from zopde.studies.report.sections import (
    cost_section,
    failures_section,
    kept_picture,
    losses_drawn,
    page_of_run,
    result_table,
)
from zopde.studies.run import Metrics, Page, Place, Table, mean_costs, over_seeds, stopped_early

PICTURES = ("spans.png",)
RANKING = 1  # of THRESHOLDS, by which labels are compared
_SHOWN = 6  # test videos


def metrics_of(opened: Opened, results: Mapping[str, list[Trained]]) -> Metrics:
    """The figures of a finished run; costs are of one seed, the mean over the seeds."""
    test = opened.other["test"].videos
    first = next(iter(results.values()))
    metrics: Metrics = {
        "methods": list(results),
        "seeds": list(opened.seeds),
        "data": opened.name,
        "test_videos": len(test),
        "thresholds": list(THRESHOLDS),
        "batch": opened.batch,
        "base_look": _of_seeds([result.base_recall for result in first]),
    }
    for label, trained in results.items():
        row: Metrics = {
            "recall": _of_seeds([result.recall for result in trained]),
            "loss": fmean(result.loss for result in trained),
        }
        for key, value in row.items():
            metrics.setdefault(key, {})[label] = value
    metrics |= mean_costs(results, ("iterations", "queries", "seconds"))
    metrics["answers"] = {label: n * opened.batch for label, n in metrics["queries"].items()}
    metrics["gain"] = {label: _gain(metrics["recall"], label) for label in results}
    metrics["stopped_early"] = stopped_early(results)
    return metrics


def _of_seeds(recalls: Sequence[Sequence[float]]) -> list[Metrics]:
    """The recall at each threshold, over the seeds."""
    return [over_seeds(of_seeds) for of_seeds in zip(*recalls, strict=True)]


def _gain(recall: Mapping[str, Any], label: str) -> float | None:
    """Per cent of what the white box gains, at the ranking threshold; None where it gains none."""
    white = white_box(label)
    if not LABELS[label].zeroth_order or not {"BASE", white} <= recall.keys():
        return None
    base, most, own = (recall[name][RANKING]["mean"] for name in ("BASE", white, label))
    return 100 * (own - base) / (most - base) if most > base else None


def draw(opened: Opened, results: Mapping[str, list[Trained]], place: Place) -> None:
    """True and found spans of some test videos."""
    test = opened.other["test"].videos
    rows = [
        SpanRow(
            test.sentences[i],
            tuple(test.spans[i].tolist()),
            {label: tuple(of[0].spans[i].tolist()) for label, of in results.items()},
        )
        for i in range(min(_SHOWN, len(test)))
    ]
    save(draw_spans(rows), place.folder.root / PICTURES[0])


def table_of(metrics: Mapping[str, Any]) -> Table:
    """The table of results, one row per label."""
    rows = []
    for label in metrics["methods"]:
        recall, gain = metrics["recall"][label], metrics["gain"][label]
        rows.append(
            [
                label,
                *(measured(at["mean"], at["std"])[0] for at in recall),
                measured(recall[RANKING]["mean"], recall[RANKING]["std"])[1],
                "" if gain is None else f"{gain:.0f}",
                *measured(metrics["loss"][label], decimals=3),
                *(count(metrics[cost][label]) for cost in ("iterations", "queries", "answers")),
                number(metrics["seconds"][label]),
            ]
        )
    first, *others = (f"{threshold:g}" for threshold in metrics["thresholds"])
    stopped = metrics["stopped_early"].items()
    base = ", ".join(measured(at["mean"], at["std"])[0] for at in metrics["base_look"])
    return Table(
        f"{metrics['data']}: R@1 [%] of {metrics['test_videos']} test videos at an intersection "
        f"over union of m, seeds {', '.join(map(str, metrics['seeds']))}",
        (
            *("method", f"m = {first}", *others, f"± seeds at {THRESHOLDS[RANKING]:g}"),
            *("% of FO's gain", "loss", "iterations", "queries", "answers", "seconds"),
        ),
        rows,
        [
            f"on the look that it was trained on the model alone has {base} %; a query is the "
            f"loss of a batch of {metrics['batch']} answers",
            *(f"{label}: stopped early, {why}" for label, why in stopped if why),
        ],
    )


def reached(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The recall by which labels are compared."""
    return {label: recall[RANKING]["mean"] for label, recall in metrics["recall"].items()}


def page_of(run: FoundRun) -> Page:
    """The page of one run, finished or not."""
    caption = "Black the true span, below it what each method finds; time runs from left to right."
    picture = kept_picture(run, PICTURES[0], "Spans of some test videos", caption)
    words = "a query is the loss of a batch."
    result = result_table(run) if run.metrics else text("No figures yet.")
    sections = [
        Section("Result", result),
        Section("Spans", picture if run.metrics else ""),
        Section("Learning", figures=losses_drawn(run, words, lambda *_: (0, 0.0))),
        cost_section(run),
        failures_section(run),
    ]
    return page_of_run(run, _lead, sections)


def _lead(metrics: Metrics) -> str:
    shares = reached(metrics)
    best = max(shares, key=lambda label: shares[label] or 0.0)
    return (
        f"{metrics['data']}: {metrics['test_videos']} test videos, seeds "
        f"{', '.join(map(str, metrics['seeds']))}. {best} finds most: "
        f"{measured(shares[best] or 0.0)[0]} % at {THRESHOLDS[RANKING]:g}."
    )
