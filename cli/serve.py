"""`zopde serve`: any solver as a service."""

from __future__ import annotations

from typing import Annotated

import typer

from zopde.cli.console import Watcher
from zopde.cli.options import SolverSpec


def serve(
    solver: SolverSpec,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One option of the solver, such as viscosity=0.2; repeatable. Default: none.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.")] = 4242,
    name: Annotated[str, typer.Option(help="What clients call the model.")] = "forward",
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
