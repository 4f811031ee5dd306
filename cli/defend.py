"""`zopde defend`: a black-box classifier, made certifiably robust."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zopde.cli.completion import defence_presets
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
)

if TYPE_CHECKING:
    from zopde.studies.defend import DefenceConfig


def defend(
    preset: Annotated[
        str,
        typer.Option(
            help="quick (digits), fashion (28 x 28) or cifar10 (as published).",
            autocompletion=defence_presets,
        ),
    ] = "quick",
    config_file: ConfigFile = None,
    changes: Changes = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="model.safetensors, package.module:name, file.py:name or a URL. "
            "Default: one is trained on the clean images first.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder. Default: runs/defend-<preset>.", show_default=False),
    ] = None,
    data: ImageFile = None,
    device: Device = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train a denoiser through a classifier that only answers queries, and certify the whole."""
    from zopde.studies.defend import load_defence, run_defence
    from zopde.studies.run import study_named

    tables = laid_over(data, device)
    if classifier is not None:
        tables["classifier"] = {"spec": classifier}
    config = load_defence(preset, config_file, changes or (), tables)
    folder = out or Path("runs") / f"defend-{preset}"
    if dry_run:
        _dry_run(config, as_json)
        return
    with redirect_stdout(sys.stderr):  # a classifier of the user's may print
        metrics = run_defence(config, folder, resume, overwrite, Watcher())
    if as_json:
        say_json(metrics)
        return
    results = study_named("defend").table(metrics)
    table(results.columns, results.rows, results.title)
    for note in results.notes:
        say(note)
    say(f"pictures: {folder / 'certified_accuracy.png'}, {folder / 'images.png'}")
    say(f"everything else: {folder}; one page of it: zopde report {folder}")


def _dry_run(config: DefenceConfig, as_json: bool) -> None:
    from dataclasses import asdict

    from zopde.studies.run import price_study, study_named

    study = study_named("defend")
    with redirect_stdout(sys.stderr):
        plan = price_study(study, study.open(config, Path(), Watcher()), Watcher())
    if as_json:
        say_json([asdict(row) for row in plan])
        return
    rows = [
        [
            r.label,
            f"{r.iterations:,}",
            f"{r.queries:,}",
            f"{r.money:,.2f}",
            f"{r.certification:,}",
            f"{r.seconds_per_iteration * r.iterations:,.0f}",
            f"{r.seconds:,.0f}",
        ]
        for r in plan
    ]
    columns = (
        "method",
        "iterations",
        "queries",
        "price",
        "to certify",
        "s training",
        "s in all",
    )
    title = "dry run: nothing was trained or written; figures of one seed, the start in every row"
    table(columns, rows, title)
