"""`zopde check`: examine a gradient or a solver before a run of hours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from zopde.cli.console import prints_to_stderr, say, say_json, table_of
from zopde.cli.options import (
    CUT_HEADS,
    AsJson,
    Changes,
    ConfigFile,
    Device,
    Preset,
    SolverSpec,
    tables_of,
)
from zopde.progress import Watcher

check = typer.Typer(
    help="Examine a gradient or a solver before a run; write nothing.", no_args_is_help=True
)

StatesFile = Annotated[
    Path | None,
    Option(
        help="Take states from this NetCDF file. Default: a few short runs of the solver's own "
        "scenario; for a solver without one, `check solver` takes smooth random fields."
    ),
]
# What the keys of a layer are called above their columns.
LAYER_HEADS = {
    "name": "layer",
    "size": "weights",
    "asked": "compared",
    "norm": "|gradient|",
    "deviation": "standard errors off",
}


@check.command()
def gradient(
    solver: SolverSpec,
    preset: Preset = "quick",
    config_file: ConfigFile = None,
    changes: Changes = None,
    data: StatesFile = None,
    device: Device = None,
    directions: Annotated[
        int,
        Option(
            help="Examine RGE with this many random directions; 0: CGE, which changes each weight."
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare the zeroth-order gradient with a reference, find the best mu, measure the noise."""
    from zopde.studies.correct import load_config
    from zopde.studies.correct.check import check_gradient

    tables = tables_of(solver=solver, data=data, device=device)
    config = load_config(preset, config_file, changes or (), tables)
    with prints_to_stderr():
        result = check_gradient(config, directions, Watcher()).as_dict()
    (say_json if as_json else _show_gradient)(result)


@check.command()
def solver(
    solver: SolverSpec,
    preset: Preset = "quick",
    config_file: ConfigFile = None,
    changes: Changes = None,
    data: StatesFile = None,
    device: Device = None,
    failures: Annotated[
        str | None,
        Option(
            help="If a solver step fails: raise ends the check, retry repeats the step, drop "
            "repeats it and then leaves it out, as in a run. Default: as in the settings."
        ),
    ] = None,
    amplitude: Annotated[
        float, Option(help="Give random fields this amplitude, in the units of the state.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Examine a solver for a minute: contract, precision, speed, the mu it needs, the costs."""
    from zopde.studies.correct import load_config
    from zopde.studies.correct.check import check_solver

    tables = tables_of(solver=solver, data=data, device=device, failures=failures)
    config = load_config(preset, config_file, changes or (), tables)
    with prints_to_stderr():
        result = check_solver(config, amplitude, Watcher()).as_dict()
    (say_json if as_json else _show_solver)(result)
    raise typer.Exit(0 if result["passed"] else 1)


def _show_gradient(result: dict[str, Any]) -> None:
    title = f"{result['estimator']} against {result['against']}, mu {result['mu']:g}"
    table_of(result["layers"], title, LAYER_HEADS)
    best, noise = result["recommended_mu"], result["noise"]
    sweep = [{**row, "": "recommended" if row["mu"] == best else ""} for row in result["sweep"]]
    table_of(sweep, f"relative error by mu, {result['swept']} weights")
    say(
        f"{result['asked']:,} of {result['total']:,} weights compared, "
        f"{result['queries']:,} queries, at {result['start']}, on {result['data']}"
    )
    say(f"recommended: mu {best:.1e} for the {result['scheme']} scheme")
    floor = "" if noise["floor"] is None else f"; below mu {noise['floor']:.1e} probes drown in it"
    repeated, nearby = f"{noise['repeated']:.1e}", f"{noise['nearby']:.1e}"
    say(f"noise of the loss: {repeated} asked again, {nearby} nearby{floor}")
    for text in result["warnings"]:
        say(f"warning: {text}")


def _show_solver(result: dict[str, Any]) -> None:
    points = result["points"]
    rows = [{"point": p["name"], "": p["verdict"], "found": p["found"]} for p in points]
    table_of(rows, f"{result['solver']} on {result['states']}")
    if result["costs"]:
        table_of(result["costs"], f"one gradient: {result['assumed']}", CUT_HEADS)
    for point in points:
        if point["remedy"]:
            say(f"{point['name']} ({point['verdict']}): {point['remedy']}")
