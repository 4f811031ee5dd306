"""The tables of finished runs, in words; shown by the commands and in reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def metrics_columns(metrics: Mapping[str, Any]) -> list[str]:
    """The columns of a correction run's table; the spread over seeds where there are several."""
    spread = ["± seeds"] if len(metrics["seeds"]) > 1 else []
    costs = ["iterations", "queries", "solver steps", "seconds"]
    return ["label", "start", "MAE", "± runs", *spread, "vs SRC", *costs]


def metrics_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """The rows of a correction run's table, one per label."""
    return [_row(metrics, label) for label in metrics["labels"]]


def _row(metrics: Mapping[str, Any], label: str) -> list[str]:
    error, start = metrics["mae"][label], metrics["init"][label]
    several, trained = len(metrics["seeds"]) > 1, start != "none"
    mean = error["mean"]
    if mean is None:
        found = [f"{metrics['diverged'][label]} diverged", "", *([""] if several else []), ""]
    else:
        change = metrics["percent_of_src"][label]
        of_seeds = [f"{error['std_over_seeds']:.4f}" if trained else ""] if several else []
        against = "" if change is None or label == "SRC" else f"{change:+.1f} %"
        found = [f"{mean:.4f}", f"{error['std']:.4f}", *of_seeds, against]
    return [
        label,
        {"none": "", "non": "NON", "scratch": "scratch"}[start],
        *found,
        *(f"{metrics[name][label]:,}" for name in ("iterations", "queries", "solver_steps")),
        f"{metrics['seconds'][label]:,.1f}",
    ]


def metrics_notes(metrics: Mapping[str, Any]) -> list[str]:
    """What the table cannot say by itself."""
    notes = [
        f"All trained labels also use {metrics['stored_solver_steps']:,} solver steps made once "
        "on the stored data. A query of NON, NOG, ZO-interface and SOL comes with a backward pass."
    ]
    if len(set(metrics["iterations"].values()) - {0}) > 1:
        notes.append("Rows that start from scratch make fewer iterations: no NON stage first.")
    for label, reasons in metrics["failures"].items():
        told = ", ".join(f"{n:,} x {reason}" for reason, n in reasons.items())
        missed = metrics["skipped_iterations"].get(label, 0)
        without = f"; {missed:,} iterations without an update" if missed else ""
        notes.append(f"{label}: {sum(reasons.values()):,} solver steps failed ({told}){without}")
    for kind in ("stopped_early", "skipped"):
        notes += [f"{label}: {why}" for label, why in metrics[kind].items()]
    return notes


CLASSIFY_COLUMNS = (
    "method",
    "accuracy %",
    "± seeds",
    "vs FO",
    "loss",
    "iterations",
    "queries",
    "seconds",
)


def classify_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """The rows of a classification run's table, one per method."""
    rows = []
    for name in metrics["methods"]:
        accuracy, gap = metrics["accuracy"][name], metrics["points_from_fo"][name]
        rows.append(
            [
                name,
                f"{accuracy['mean']:.2f}",
                "" if accuracy["std"] is None else f"{accuracy['std']:.2f}",
                "" if gap is None or name == "FO" else f"{gap:+.2f}",
                f"{metrics['loss'][name]:.4f}",
                *(f"{metrics[cost][name]:,.0f}" for cost in ("iterations", "queries")),
                f"{metrics['seconds'][name]:,.1f}",
            ]
        )
    return rows
