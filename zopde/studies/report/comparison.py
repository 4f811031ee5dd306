"""Several runs of one kind on one page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from zopde.errors import InputError
from zopde.report.learning import Paid, save_price
from zopde.report.page import Section, code, drawn, folded, picture, table, text
from zopde.studies.defend.judge import RADII
from zopde.studies.report.asked import reproduce
from zopde.studies.report.certification import curves_picture
from zopde.studies.report.classification import learning_picture, read_points
from zopde.studies.report.correction import error_picture, fields_picture
from zopde.studies.report.defence import AT, certified_picture
from zopde.studies.report.rollouts import read_rollouts
from zopde.studies.report.runs import FoundRun
from zopde.studies.settings import literal
from zopde.studies.tables import (
    CERTIFY_COLUMNS,
    CLASSIFY_COLUMNS,
    DEFEND_COLUMNS,
    certify_rows,
    classify_rows,
    defend_rows,
    metrics_rows,
)

Metrics = Mapping[str, Any]
_CORRECT_COLUMNS = (
    *("label", "start", "MAE", "± runs", "± seeds", "vs SRC"),
    *("iterations", "queries", "solver steps", "seconds"),
)
_TABLES: dict[str, tuple[Sequence[str], Callable[[Metrics], list[list[str]]]]] = {
    "correct": (_CORRECT_COLUMNS, metrics_rows),
    "classify": (CLASSIFY_COLUMNS, classify_rows),
    "defend": (DEFEND_COLUMNS, defend_rows),
    "certify": (CERTIFY_COLUMNS, certify_rows),
}
# What a label reached, by name, for what it cost; a certification trains nothing.
_REACHED: dict[str, tuple[str, Callable[[Metrics], dict[str, float | None]]]] = {
    "correct": ("mean absolute error", lambda m: _means(m["mae"])),
    "classify": ("test accuracy [%]", lambda m: _means(m["accuracy"])),
    "defend": (
        f"certified accuracy at r = {RADII[AT]:g} [%]",
        lambda m: _means({name: each[AT] for name, each in m["certified"].items()}),
    ),
}


def comparison_report(runs: Sequence[FoundRun]) -> tuple[str, list[Section]]:
    """(lead, sections) of several runs.

    Raises:
        InputError: If they are of different commands.
    """
    commands = sorted({run.command for run in runs})
    if len(commands) > 1:
        raise InputError(
            "run folders",
            got=f"runs of {' and '.join(commands)}",
            expected="runs of one command",
            remedy="make a report of each",
        )
    names = _names(runs)
    done = {name: run for name, run in names.items() if run.metrics is not None}
    missing = [name for name in names if name not in done]
    lead = text(f"{len(runs)} runs of zopde {commands[0]}: {', '.join(names)}.", "lead")
    if missing:
        said = "not finished, so without figures here"
        lead += text(f"{', '.join(missing)}: {said}.", "warning")
    sections = [
        Section("What differs", _differences(names)),
        Section("Result", _result(done, commands[0])),
        Section("What it cost", _price(done, commands[0]) if commands[0] in _REACHED else ""),
        *(Section(name, _one(run)) for name, run in names.items()),
    ]
    return lead, sections


def _names(runs: Sequence[FoundRun]) -> dict[str, FoundRun]:
    """By the folder's name, by its path where two have the same."""
    short = [run.name for run in runs]
    return {r.name if short.count(r.name) == 1 else str(r.root): r for r in runs}


def _differences(names: dict[str, FoundRun]) -> str:
    flat = {
        name: {
            key: literal(value)
            for table, settings in run.settings.items()
            for key, value in _named(table, settings)
        }
        for name, run in names.items()
    }
    keys = list(dict.fromkeys(key for settings in flat.values() for key in settings))
    rows = []
    for key in keys:
        values = [settings.get(key, "-") for settings in flat.values()]
        if len(set(values)) > 1:
            rows.append([key, *values])
    if not rows:
        return text("No setting does: the runs are repetitions.")
    return table(("setting", *names), rows, words=True)


def _named(table: str, settings: object) -> Iterator[tuple[str, object]]:
    if isinstance(settings, Mapping):
        yield from ((f"{table}.{key}", value) for key, value in settings.items())
    else:
        yield table, settings  # a certification's are in no table


def _result(done: dict[str, FoundRun], command: str) -> str:
    columns, of_run = _TABLES[command]
    rows = []
    for name, run in done.items():
        assert run.metrics is not None
        for row in of_run(run.metrics):
            if len(row) < len(columns):  # of one seed: no spread over seeds
                row.insert(4, "")
            rows.append([name, *row])
    body = table(("run", *columns), rows) if rows else ""
    return body + (curves_picture(list(done.values())) if command == "certify" else "")


def _means(found: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    return {label: each["mean"] for label, each in found.items()}


def _price(done: dict[str, FoundRun], command: str) -> str:
    points = []
    what, reached = _REACHED[command]
    for name, run in done.items():
        assert run.metrics is not None
        for label, mean in reached(run.metrics).items():
            queries, seconds = run.metrics["queries"][label], run.metrics["seconds"][label]
            if mean is not None and queries:
                points.append(Paid(name, label, queries, seconds, mean))
    if not points:
        return ""
    return picture(
        drawn(lambda path: save_price(path, points, what)),
        f"{what} against queries and seconds",
        "A colour per label, a mark per run; mean over the seeds.",
    )


def _one(run: FoundRun) -> str:
    body = ""
    if run.command == "correct":
        rollouts = read_rollouts(run)
        body = error_picture(run, rollouts)
        body += folded("fields", fields_picture(run, rollouts))
    elif run.command == "classify":
        body = learning_picture(read_points(run))
    elif run.command == "defend":
        body = certified_picture(run)
    return body + folded("the command that makes it again", code(reproduce(run), command=True))
