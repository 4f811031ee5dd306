"""The only place that prints: bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from zopde.progress import Advance

_LINE_EVERY = 15.0  # seconds between plain progress lines


def complain(message: str) -> None:
    """One line about what went wrong, on stderr."""
    print(f"zopde: {' '.join(message.split())}", file=sys.stderr)


def say(text: str) -> None:
    """A result, on stdout."""
    print(text)


def say_json(content: object) -> None:
    """A result for a program, on stdout."""
    print(json.dumps(content, indent=2, allow_nan=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table on stdout; the first column to the left, figures to the right."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title or None, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        grid.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        grid.add_row(*row)
    # Piped output has no width of its own: a table must not be cut there.
    Console(width=None if sys.stdout.isatty() else 140).print(grid)


class Watcher:
    """Draws the progress of long work on stderr; see `zopde.progress.Progress`."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        """A bar with the time to go on a terminal; a line now and then in a log."""
        draw = self._bar if sys.stderr.isatty() else self._lines
        with draw(title, total) as advance:
            yield advance

    def note(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task(title, total=total, text="")

            def advance(steps: int = 1, text: str = "") -> None:
                bars.update(task, advance=steps, text=text)

            yield advance

    @contextmanager
    def _lines(self, title: str, total: int) -> Iterator[Advance]:
        began = spoke = time.monotonic()
        done = 0

        def advance(steps: int = 1, text: str = "") -> None:
            nonlocal done, spoke
            done += steps
            now = time.monotonic()
            if now - spoke > _LINE_EVERY and done < total:
                spoke = now
                left = (now - began) / done * (total - done)
                tail = f", {text}" if text else ""
                self.note(f"{title}: {done}/{total}, about {left:.0f} s left{tail}")

        yield advance
        self.note(f"{title}: {done}/{total} in {time.monotonic() - began:.1f} s")


def metrics_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """The rows of a run's table, one per label."""
    return [_row(metrics, label) for label in metrics["labels"]]


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


METRICS_COLUMNS = (
    "label",
    "start",
    "MAE",
    "± runs",
    "vs SRC",
    "iterations",
    "queries",
    "solver steps",
    "seconds",
)


def _row(metrics: Mapping[str, Any], label: str) -> list[str]:
    error = metrics["mae"][label]
    mean = error["mean"]
    if mean is None:
        found = [f"{metrics['diverged'][label]} diverged", "", ""]
    else:
        change = metrics["percent_of_src"][label]
        against = "" if change is None or label == "SRC" else f"{change:+.1f} %"
        found = [f"{mean:.4f}", f"{error['std']:.4f}", against]
    return [
        label,
        {"none": "", "non": "NON", "scratch": "scratch"}[metrics["init"][label]],
        *found,
        *(f"{metrics[name][label]:,}" for name in ("iterations", "queries", "solver_steps")),
        f"{metrics['seconds'][label]:,.1f}",
    ]


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


DEFEND_COLUMNS = (
    "method",
    "r = 0",
    "0.25",
    "0.5",
    "0.75",
    "± seeds at 0.25",
    "iterations",
    "queries",
    "price",
    "seconds",
)


def defend_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """The rows of a defence run's table, one per method."""
    rows = []
    for name in metrics["methods"]:
        certified = metrics["certified"][name]
        spread = certified[1]["std"]
        rows.append(
            [
                name,
                *(f"{at['mean']:.1f}" for at in certified),
                "" if spread is None else f"{spread:.1f}",
                *(f"{metrics[cost][name]:,.0f}" for cost in ("iterations", "queries")),
                f"{metrics['price'][name]:,.2f}",
                f"{metrics['seconds'][name]:,.1f}",
            ]
        )
    return rows


def layer_rows(check: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a self-check's layers; a column that nobody fills is left out."""
    columns = {
        "layer": "name",
        "weights": "size",
        "compared": "asked",
        "|gradient|": "norm",
        "cosine": "cosine",
        "norm ratio": "norm_ratio",
        "standard errors off": "deviation",
        "Taylor rate": "taylor_rate",
    }
    layers = check["layers"]
    shown = {c: k for c, k in columns.items() if any(layer[k] is not None for layer in layers)}
    return list(shown), [[_figure(layer[key]) for key in shown.values()] for layer in layers]


def sweep_rows(check: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a sweep over mu."""
    rows = []
    for point in check["sweep"]:
        best = point["mu"] == check["recommended_mu"]
        errors = (_figure(point[name], ".1e") for name in ("forward", "central"))
        rows.append([f"{point['mu']:.1e}", *errors, "recommended" if best else ""])
    return ["mu", "forward", "central", ""], rows


def check_notes(check: Mapping[str, Any]) -> list[str]:
    """What the two tables cannot say."""
    noise = check["noise"]
    floor = "" if noise["floor"] is None else f"; below mu {noise['floor']:.1e} probes drown in it"
    return [
        f"{check['asked']:,} of {check['total']:,} weights compared, "
        f"{check['queries']:,} queries, at {check['start']}, on {check['data']}",
        f"recommended: mu {check['recommended_mu']:.1e} for the {check['scheme']} scheme",
        f"noise of the loss: {noise['repeated']:.1e} asked again, {noise['nearby']:.1e} nearby"
        + floor,
        *(f"warning: {text}" for text in check["warnings"]),
    ]


CUT_COLUMNS = ("cut", "once: solver steps", "seconds", "a gradient: solver steps", "seconds", "")


def cut_rows(cuts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The rows of a dry run's second table, one per cut."""
    names = ("setup_steps", "setup_seconds", "steps", "seconds")
    return [
        [cut["cut"], *(_figure(cut[name], ",.3g") for name in names), cut["note"]] for cut in cuts
    ]


def _figure(value: Any, form: str = ".4g") -> str:  # noqa: ANN401 - text, a number or nothing
    if value is None:
        return "-"
    if isinstance(value, float):
        return format(value, form)
    return f"{value:,}" if isinstance(value, int) else str(value)
