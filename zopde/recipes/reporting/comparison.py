"""Several runs of one kind on one page."""

from __future__ import annotations

from collections.abc import Sequence

from zopde.errors import InputError
from zopde.recipes.reporting.asked import reproduce
from zopde.recipes.reporting.classification import learning_picture, read_points
from zopde.recipes.reporting.correction import error_picture, fields_picture
from zopde.recipes.reporting.rollouts import read_rollouts
from zopde.recipes.reporting.runs import FoundRun
from zopde.recipes.settings import literal
from zopde.recipes.tables import CLASSIFY_COLUMNS, classify_rows, metrics_rows
from zopde.report.learning import Paid, save_price
from zopde.report.page import Section, code, drawn, folded, picture, table, text


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
        Section("What it cost", _price(done, commands[0])),
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
            f"{table}.{key}": literal(value)
            for table, settings in run.settings.items()
            for key, value in settings.items()
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


def _result(done: dict[str, FoundRun], command: str) -> str:
    rows, columns = [], list(CLASSIFY_COLUMNS)
    if command == "correct":
        columns = ["label", "start", "MAE", "± runs", "± seeds", "vs SRC"]
        columns += ["iterations", "queries", "solver steps", "seconds"]
    for name, run in done.items():
        assert run.metrics is not None
        of_run = (metrics_rows if command == "correct" else classify_rows)(run.metrics)
        for row in of_run:
            if len(row) < len(columns):  # of one seed: no spread over seeds
                row.insert(4, "")
            rows.append([name, *row])
    return table(("run", *columns), rows) if rows else ""


def _price(done: dict[str, FoundRun], command: str) -> str:
    points = []
    for name, run in done.items():
        assert run.metrics is not None
        reached = run.metrics["mae" if command == "correct" else "accuracy"]
        for label, found in reached.items():
            queries, seconds = run.metrics["queries"][label], run.metrics["seconds"][label]
            if found["mean"] is not None and queries:
                points.append(Paid(name, label, queries, seconds, found["mean"]))
    if not points:
        return ""
    what = "mean absolute error" if command == "correct" else "test accuracy [%]"
    return picture(
        drawn(lambda path: save_price(path, points, what)),
        f"{what} against queries and seconds",
        "A colour per label, a mark per run; mean over the seeds.",
    )


def _one(run: FoundRun) -> str:
    if run.command == "correct":
        rollouts = read_rollouts(run)
        body = error_picture(run, rollouts)
        body += folded("fields", fields_picture(run, rollouts))
    else:
        body = learning_picture(read_points(run))
    return body + folded("the command that makes it again", code(reproduce(run), command=True))
