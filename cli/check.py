"""`zopde check`: is it right, before it runs for hours."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zopde.cli.console import Watcher, check_notes, layer_rows, say, say_json, sweep_rows, table
from zopde.cli.options import AsJson, Changes, ConfigFile, Device, Preset, SolverSpec, configured
from zopde.cli.solver_report import (
    COST_COLUMNS,
    POINT_COLUMNS,
    cost_rows,
    point_remedies,
    point_rows,
)

if TYPE_CHECKING:
    from zopde.studies.correct.check import GradientCheck

check = typer.Typer(help="Check a part of a planned run; nothing is written.", no_args_is_help=True)


@check.callback()
def options() -> None:
    """Check a part of a planned run; nothing is written."""


@check.command()
def gradient(
    solver: SolverSpec,
    preset: Preset = "quick",
    config_file: ConfigFile = None,
    changes: Changes = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="NetCDF file of reference data. Default: a few short runs are made.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    directions: Annotated[
        int,
        typer.Option(help="Judge an estimate from so many random directions; 0: each weight."),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare the zeroth-order gradient with autograd, find the best mu, measure the noise."""
    from zopde.studies.correct.check import check_gradient

    config = configured(solver, preset, config_file, changes, data, device)
    with redirect_stdout(sys.stderr):  # a solver may print; stdout is for the result
        found = check_gradient(config, directions, Watcher())
    if as_json:
        say_json(found.as_dict())
        return
    _show(found)


@check.command()
def solver(
    solver: SolverSpec,
    preset: Preset = "quick",
    config_file: ConfigFile = None,
    changes: Changes = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="NetCDF file of typical states. Default: the solver's own scenario, if it has "
            "one, else smooth random fields.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    amplitude: Annotated[
        float, typer.Option(help="Of the random fields, in the units of the state.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Look at a solver for a minute: contract, precision, speed, the mu it needs, the costs."""
    from zopde.studies.correct.check import check_solver
    from zopde.validate import check_positive

    check_positive("--amplitude", amplitude)
    config = configured(solver, preset, config_file, changes, data, device)
    with redirect_stdout(sys.stderr):  # a solver may print; stdout is for the result
        found = check_solver(config, amplitude, Watcher())
    plain = found.as_dict()
    if as_json:
        say_json(plain)
    else:
        table(POINT_COLUMNS, point_rows(plain), f"{plain['solver']} on {plain['states']}")
        if plain["costs"]:
            table(COST_COLUMNS, cost_rows(plain), f"one gradient: {plain['assumed']}")
        for line in point_remedies(plain):
            say(line)
    raise typer.Exit(0 if found.passed else 1)


def _show(found: GradientCheck) -> None:
    plain = found.as_dict()
    columns, rows = layer_rows(plain)
    table(columns, rows, f"{found.estimator} against {plain['against']}, mu {plain['mu']:g}")
    columns, rows = sweep_rows(plain)
    table(columns, rows, f"relative error by mu, {plain['swept']} weights")
    for line in check_notes(plain):
        say(line)
