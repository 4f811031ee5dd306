"""`zopde classify`: a classifier from scratch, without back-propagation."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zopde.cli.console import Watcher, say, say_json, table
from zopde.cli.options import (
    AsJson,
    Changes,
    ConfigFile,
    Device,
    DryRun,
    ImageFile,
    Overwrite,
    Resume,
    laid_over,
    presets,
)

if TYPE_CHECKING:
    from zopde.studies.classify import ClassificationConfig


def classify(
    preset: Annotated[
        str,
        typer.Option(
            help="quick (digits), cnn-730 ... cnn-12610, resnet20-80/90/95/99 (CIFAR-10).",
            autocompletion=presets("classify"),
        ),
    ] = "quick",
    config_file: ConfigFile = None,
    changes: Changes = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder. Default: runs/classify-<preset>.", show_default=False),
    ] = None,
    data: ImageFile = None,
    device: Device = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train an image classifier from scratch by queries, beside back-propagation."""
    from zopde.studies.classify import load_classification, run_classification
    from zopde.studies.tables import CLASSIFY_COLUMNS, classify_rows

    tables = laid_over(data, device)
    config = load_classification(preset, config_file, changes or (), tables)
    folder = out or Path("runs") / f"classify-{preset}"
    if dry_run:
        _dry_run(config, as_json)
        return
    with redirect_stdout(sys.stderr):  # a module of the user's may print
        metrics = run_classification(config, folder, resume, overwrite, Watcher())
    if as_json:
        say_json(metrics)
        return
    title = (
        f"{metrics['data']}: {metrics['test_images']:,} test images, {metrics['parameters']:,} "
        f"weights, seeds {', '.join(map(str, metrics['seeds']))}"
    )
    table(CLASSIFY_COLUMNS, classify_rows(metrics), title)
    say(f"pictures: {folder / 'learning_curves.png'}, {folder / 'confusion.png'}")
    say(f"everything else: {folder}; one page of it: zopde report {folder}")


def _dry_run(config: ClassificationConfig, as_json: bool) -> None:
    from dataclasses import asdict

    from zopde.studies.classify.price import forecast

    with redirect_stdout(sys.stderr):
        plan = forecast(config, Watcher())
    if as_json:
        say_json([asdict(row) for row in plan])
        return
    rows = [
        [
            r.method,
            f"{r.iterations:,}",
            f"{r.queries:,}",
            f"{r.seconds_per_iteration:.3g}",
            f"{r.seconds_per_epoch:,.0f}",
            f"{r.seconds / 3600:,.2f}",
        ]
        for r in plan
    ]
    columns = ("method", "iterations", "queries", "s/iteration", "s/epoch", "hours")
    table(columns, rows, "dry run: nothing was trained or written; hours of one seed")
