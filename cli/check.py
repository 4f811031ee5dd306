"""`zopde check`: is it right, before it runs for hours."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zopde.cli.console import Watcher, check_notes, layer_rows, say, say_json, sweep_rows, table
from zopde.cli.options import AsJson, Changes, ConfigFile, Device, Preset, SolverSpec, configured

if TYPE_CHECKING:
    from zopde.recipes import GradientCheck

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
        int, typer.Option(help="Judge a random-direction estimate with so many; 0: CGE.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare the zeroth-order gradient with autograd, find the best mu, measure the noise."""
    from zopde.recipes import check_gradient

    config = configured(solver, preset, config_file, changes, data, device)
    with redirect_stdout(sys.stderr):  # a solver may print; stdout is for the result
        found = check_gradient(config, directions, Watcher())
    if as_json:
        say_json(found.as_dict())
        return
    _show(found)


def _show(found: GradientCheck) -> None:
    plain = found.as_dict()
    columns, rows = layer_rows(plain)
    table(columns, rows, f"{found.estimator} against {plain['against']}, mu {plain['mu']:g}")
    columns, rows = sweep_rows(plain)
    table(columns, rows, f"relative error by mu, {plain['swept']} weights")
    for line in check_notes(plain):
        say(line)
