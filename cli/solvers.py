"""`zopde solvers`, `simulate` and `serve`: list solvers, run one, answer for one over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from zopde.cli.console import Watcher, prints_to_stderr, say, say_json
from zopde.cli.options import AsJson, Changes, ConfigFile, Overwrite, Preset, SolverSpec, tables_of


def solvers(as_json: AsJson = False) -> None:
    """List the solvers that are installed, one line each."""
    from dataclasses import asdict

    from zopde.plugins import find_solvers

    installed = find_solvers()
    if as_json:
        say_json([asdict(info) for info in installed])
        return
    for info in installed:
        say(f"{info.name:<12} {info.summary}  ({info.target})")


def simulate(
    solver: SolverSpec,
    out: Annotated[Path, Option(help="Write this NetCDF file.")],
    preset: Preset = "quick",
    config_file: ConfigFile = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
) -> None:
    """Run a solver on the fine grid and keep the runs on the coarse grid, as NetCDF."""
    from zopde.data import save_trajectories
    from zopde.studies.correct import load_config
    from zopde.studies.correct.open import open_solver, reference_of
    from zopde.validate import check_new_file

    config = load_config(preset, config_file, changes or (), tables_of(solver=solver))
    check_new_file("--out", out, overwrite)
    with prints_to_stderr():
        data = reference_of(config, open_solver(config), out.parent).make(Watcher())
    save_trajectories(data, out)
    say(f"wrote {out}: {data.simulations} simulations of {data.steps} steps on {data.grid.shape}")


def serve(
    solver: SolverSpec,
    changes: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set one option of the solver, such as viscosity=0.2; repeatable. Default: none.",
        ),
    ] = None,
    host: Annotated[str, Option(help="Listen on this address; 0.0.0.0: on all.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Listen on this port; 0: on a free one.")] = 4242,
    name: Annotated[str, Option(help="Let clients call the model this.")] = "forward",
) -> None:
    """Answer for a solver over HTTP, as UM-Bridge 1.0; Ctrl-C ends it."""
    from zopde.blackbox.serving import ServedSolver, SolverServer
    from zopde.plugins import load_solver
    from zopde.studies.settings import assignments

    note = Watcher().note
    served = ServedSolver(load_solver(solver, assignments(changes or ())), name)
    with SolverServer(served, host, port) as server:
        note(f"{solver} answers as {name!r} at {server.url}; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note(f"ended; steps answered: {served.evaluations:,}")
