"""The tables of a correction: what every label reached and for what, and in other measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zopde.numerals import change, count, measured, number
from zopde.studies.run import Table

_MEASURES = ("diverged", "correlation_time", "nrmse")
_ROOM = 60  # characters of a terminal that columns of single channels may take


def table_of(metrics: Mapping[str, Any]) -> Table:
    """The table of results, one row per label; the spread over seeds where there are several."""
    labels, several = metrics["labels"], len(metrics["seeds"]) > 1
    checking, gradients = metrics.get("checking", {}), metrics.get("gradient", {})
    costs = {"iterations": metrics["iterations"], "queries": metrics["queries"]}
    if any(checking.values()):
        costs["checking"] = checking
    if "validating" in metrics:
        costs["validating"] = metrics["validating"]
    costs["solver\nsteps"] = metrics["solver_steps"]
    rows = [
        [
            *(label, *_reached(metrics, label, several)),
            *(count(of_label[label]) for of_label in costs.values()),
            number(metrics["seconds"][label]),
            *([_cosine(gradients.get(label))] if gradients else []),
        ]
        for label in labels
    ]
    spread, heads = ["± seeds"] if several else [], ["cosine"] if gradients else []
    return Table(
        f"{metrics['test_runs']} unseen runs, {metrics['steps']} steps, "
        f"{metrics['parameters']:,} weights, seeds {', '.join(map(str, metrics['seeds']))}",
        ["label", "MAE", "± runs", *spread, "vs SRC", *costs, "seconds", *heads],
        rows,
        notes_of(metrics),
        _measures(metrics) if "nrmse" in metrics else None,  # earlier versions had none
    )


def _cosine(found: Mapping[str, float | None] | None) -> str:
    """Of a label's gradients with the exact ones; nothing where nobody looked."""
    return "" if found is None or found["cosine"] is None else f"{found['cosine']:.2f}"


def _reached(metrics: Mapping[str, Any], label: str, several: bool) -> list[str]:
    error, mean = metrics["mae"][label], metrics["mae"][label]["mean"]
    if mean is None:
        return ["diverged", "", *([""] if several else []), ""]
    trained, percent = metrics["init"][label] != "none", metrics["percent_of_src"][label]
    of_seeds = [error["std_over_seeds"] if trained else None] if several else []
    against = "" if percent is None or label == "SRC" else f"{change(percent)} %"
    of_runs = error["std"] if metrics["test_runs"] > 1 else None
    return [*measured(mean, of_runs, *of_seeds, decimals=4), against]


def _measures(metrics: Mapping[str, Any]) -> Table:
    """The same rollouts in other measures; `zopde.hybrid.rollout_error` defines them."""
    time, labels = metrics["time"], metrics["labels"]
    channels, rows = list(metrics["nrmse"][labels[0]]["channels"]), []
    heads = ["loss", "mean", "variance"][: len(_statistics(metrics, labels[0]))]
    own = list(metrics.get("own", {}).get(labels[0], {}))
    for label in labels:
        found = {name: metrics[name][label] for name in _MEASURES}
        seeds = 1 if metrics["init"][label] == "none" else len(metrics["seeds"])
        judged = [_shown(value) for value in _statistics(metrics, label)]
        judged += [_shown(metrics["own"][label][name]) for name in own]
        rows.append([label, *judged, *measures(found, seeds * metrics["test_runs"])])
    of_time = "" if time["unit"] == "1" else f" {time['unit']}"
    return Table(
        "Rollouts that diverged; mean time until the correlation with the reference is below 0.8, "
        f"of {time['length']:.4g}{of_time}; error in standard deviations of the reference"
        + "; errors of mean and variance in time, in those of the reference"
        * (len(heads) > 1),
        ["label", *heads, *own, *measure_heads(channels, time["unit"])],
        rows,
    )


def _statistics(metrics: Mapping[str, Any], label: str) -> list[float | None]:
    """Where a loss of the user's choice judges: the loss, errors of mean and variance in time."""
    if "loss" not in metrics:
        return []
    climate = metrics.get("climate_error", {}).get(label, {})  # earlier versions had none
    return [metrics["loss"][label], *(of["mean"] for of in climate.values())]


def measure_heads(channels: Sequence[str], unit: str) -> list[str]:
    """Heads of the columns that `measures` fills; single channels where there is room."""
    room = len(channels) > 1 and sum(len(name) + 3 for name in channels) <= _ROOM
    of_time = "" if unit == "1" else f" [{unit}]"
    return ["diverged", f"corr. time{of_time}", "nRMSE", *(channels if room else ())]


def measures(found: Mapping[str, Any], rollouts: int) -> list[str]:
    """What `summary` found of one label, whose rollouts are so many."""
    nrmse, time = found["nrmse"], found["correlation_time"]["mean"]
    single = nrmse["channels"].values() if len(measure_heads(nrmse["channels"], "")) > 3 else ()
    errors = map(_shown, (nrmse["mean"], *single))
    return [f"{found['diverged']}/{rollouts}", f"{time:.4g}", *errors]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def notes_of(metrics: Mapping[str, Any]) -> list[str]:
    """What the table cannot say by itself."""
    notes = [
        f"All trained labels also use {metrics['stored_solver_steps']:,} solver steps made once "
        "on the stored data. A query of a label that back-propagates, every one but ZO-weights, "
        "FG, ES, EKI and ETKI, comes with a backward pass."
    ]
    if (every := metrics.get("every", 1)) > 1:  # earlier versions had no choice
        notes.append(f"One in {every} steps is corrected; errors are of the states behind these.")
    if metrics.get("split"):  # earlier versions had none
        notes.append(f"Reference data: {metrics['split']}.")
    if metrics.get("gradient"):
        notes.append(
            "cosine: of gradient and exact gradient, mean over the looks; see gradient.csv."
        )
    scratch = [label for label, start in metrics["init"].items() if start == "scratch"]
    if scratch:
        stage = "" if "non" in metrics["init"].values() else ", as all trained labels"
        notes.append(f"From scratch, without the iterations of NON: {', '.join(scratch)}{stage}.")
    for label, kept in metrics.get("validation", {}).items():
        told = ", ".join(str(one["iteration"]) for one in kept)
        short = sum(one["short"] for one in kept)
        ended = f"; {short} of {len(kept)} trainings ended by training.patience" if short else ""
        notes.append(f"{label}: kept the weights after iteration {told}, by the validation{ended}.")
    for label, reasons in metrics["failures"].items():
        told = ", ".join(f"{n:,} x {reason}" for reason, n in reasons.items())
        missed = metrics["skipped_iterations"].get(label, 0)
        without = f"; {missed:,} iterations without an update" if missed else ""
        notes.append(f"{label}: {sum(reasons.values()):,} solver steps failed ({told}){without}")
    for kind in ("stopped_early", "skipped"):
        notes += [f"{label}: {why}" for label, why in metrics[kind].items()]
    return notes
