"""`zopde correct`: the main job."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zopde.cli.console import CUT_COLUMNS, Watcher, cut_rows, say, say_json, table
from zopde.cli.options import (
    AsJson,
    Changes,
    ConfigFile,
    DataFile,
    Device,
    DryRun,
    Overwrite,
    Preset,
    Resume,
    SolverSpec,
    configured,
)

if TYPE_CHECKING:
    from zopde.studies.correct import CorrectionConfig


def correct(
    solver: SolverSpec,
    preset: Preset = "quick",
    config_file: ConfigFile = None,
    changes: Changes = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder. Default: runs/<solver>-<preset>.", show_default=False),
    ] = None,
    data: DataFile = None,
    device: Device = None,
    chunk: Annotated[
        int | None,
        typer.Option(help="Probes per pass; 0 measures what is best. Default: as the settings."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    executor: Annotated[
        str | None,
        typer.Option(
            help="Who answers probes of the weight cut: dask (a local cluster of run.workers), "
            "dask://host:port. Default: run.workers processes."
        ),
    ] = None,
    failures: Annotated[
        str | None,
        typer.Option(
            help="When a solver step fails: raise, retry (run.retries times, then raise), or drop "
            "(then leave it out). Default: as the settings."
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="File that keeps the solver's answers, so that a crashed or resumed run asks "
            "nothing twice; for solvers that take long. Default: none is kept.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a corrector in every way, compare on unseen runs, leave a run folder."""
    from zopde.studies.correct import run_correction
    from zopde.studies.tables import metrics_columns, metrics_notes, metrics_rows

    zo: dict[str, object] = {} if chunk is None else {"chunk": chunk}
    given = {"executor": executor, "failures": failures, "store": store and str(store)}
    run: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    config = configured(solver, preset, config_file, changes, data, device, zo=zo, run=run)
    folder = out or Path("runs") / f"{Path(solver.replace(':', '-')).name}-{preset}"
    if dry_run:
        _dry_run(config, folder, as_json)
        return
    with redirect_stdout(sys.stderr):  # a solver may print; stdout is for the result
        metrics = run_correction(config, folder, resume, overwrite, Watcher())
    if as_json:
        say_json(metrics)
        return
    table(metrics_columns(metrics), metrics_rows(metrics), _title(metrics))
    for line in metrics_notes(metrics):
        say(line)
    say(f"pictures: {', '.join(map(str, sorted(folder.glob('*.png'))))}")
    say(f"everything else: {folder}; one page of it: zopde report {folder}")


def _title(metrics: dict[str, object]) -> str:
    seeds = metrics["seeds"]
    assert isinstance(seeds, list)
    return (
        f"{metrics['test_runs']} unseen runs, {metrics['steps']} steps, "
        f"{metrics['parameters']:,} weights, seeds {', '.join(map(str, seeds))}"
    )


def _dry_run(config: CorrectionConfig, folder: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from zopde.studies.correct.cuts import forecast_cuts
    from zopde.studies.correct.price import forecast_labels, open_sample
    from zopde.studies.correct.problem import data_path

    watcher = Watcher()
    with redirect_stdout(sys.stderr):
        sample = open_sample(config, data_path(config, folder.parent), watcher)
        plan = forecast_labels(sample, watcher)
        cuts = forecast_cuts(sample.config, sample.problem, watcher)
    if as_json:
        say_json({"labels": [asdict(row) for row in plan], "cuts": [asdict(row) for row in cuts]})
        return
    rows = [
        [r.label, f"{r.iterations:,}", f"{r.queries:,}", f"{r.solver_steps:,}", f"{r.seconds:,.0f}"]
        for r in plan
    ]
    columns = ("label", "iterations", "queries", "solver steps", "estimated seconds")
    table(columns, rows, "dry run: nothing was trained or written")
    table(CUT_COLUMNS, cut_rows([asdict(row) for row in cuts]), "what a gradient asks, by cut")
