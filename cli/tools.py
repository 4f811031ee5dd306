"""The commands beside the studies: solvers, simulate, serve, report, export, data and doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from zopde.cli.console import prints_to_stderr, say, say_json, table
from zopde.cli.options import AsJson, Changes, ConfigFile, Overwrite, Preset, SolverSpec, tables_of
from zopde.progress import Watcher

data = typer.Typer(help="Download data sets from their authors.", no_args_is_help=True)


def solvers(as_json: AsJson = False) -> None:
    """List the installed solvers, one on each line."""
    from dataclasses import asdict

    from zopde.plugins import find_solvers

    installed = find_solvers()
    if as_json:
        say_json([asdict(info) for info in installed])
        return
    width = max((len(info.name) for info in installed), default=0)
    for info in installed:
        say(f"{info.name:<{width}}  {info.summary}  ({info.target})")


def simulate(
    solver: SolverSpec,
    out: Annotated[Path, Option(help="Write the data to this NetCDF file.")],
    preset: Preset = "quick",
    config_file: ConfigFile = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
) -> None:
    """Make reference data: run a solver on the fine grid, write its states on the coarse grid."""
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
    name: Annotated[str, Option(help="Give the model this name for its clients.")] = "forward",
) -> None:
    """Make a UM-Bridge 1.0 server of a solver: others step it over HTTP, until Ctrl-C ends it."""
    from zopde.blackbox.serving import ServedSolver, SolverServer
    from zopde.plugins import load_solver
    from zopde.studies.settings import assignments

    note = Watcher().note
    served = ServedSolver(load_solver(solver, assignments(changes or ())), name)
    with SolverServer(served, host, port) as server:
        note(f"{solver} answers as {name!r} at {server.url}; Ctrl-C ends it")
        if not server.loopback:
            note("whoever reaches this address may use it: it has no password and no encryption")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note(f"ended; steps answered: {served.evaluations:,}")


def report(
    runs: Annotated[
        list[Path],
        Argument(
            help="Folders of runs of one command; the page compares them if there are several."
        ),
    ],
    out: Annotated[
        Path | None, Option(help="Write this HTML file. Default: report.html in the first folder.")
    ] = None,
    animation: Annotated[
        Path | None,
        Option(
            help="Also write the animation of the page to this GIF file (of one run of correct; "
            "at most 1.4 MB). Default: only in the page."
        ),
    ] = None,
    vtk: Annotated[
        Path | None,
        Option(
            help="Also write the unseen run that the page shows to this new folder, as VTK files "
            "for ParaView (of one run of correct; it takes the extra vtk). Default: none."
        ),
    ] = None,
) -> None:
    """Write one HTML page about a run, finished or not; the page needs no other file."""
    from zopde.studies.report import write_report

    with prints_to_stderr():  # a solver that tells its vorticity may print
        page = write_report(runs, out, animation, vtk)
    say(f"wrote {page}: {page.stat().st_size / 1e6:.1f} MB")
    if vtk is not None:
        say(f"wrote {', '.join(map(str, sorted(vtk.glob('*.pvd'))))}")


def export(
    run: Annotated[Path, Argument(help="The folder of a run of `zopde correct`.")],
    to: Annotated[
        Path,
        Option(
            help="Write this file, and a page about it, FILE.md. The suffix says the format: .onnx "
            "(ONNX), .pt2 (torch.export), .pt or .ts (TorchScript, for C++)."
        ),
    ],
    label: Annotated[
        str | None,
        Option(help="Take this label. Default: that of least error without the solver's gradient."),
    ] = None,
    seed: Annotated[int | None, Option(help="Take this seed. Default: the run's first.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace both files.")] = False,
) -> None:
    """Write a trained corrector as one file that needs no zopde; compare it with the network."""
    from zopde.studies.correct import export_corrector

    with prints_to_stderr():  # a network or a solver of the user's may print
        made = export_corrector(run, to, label, seed, overwrite)
    say(f"wrote {to} of {made.model}: {made.agreement}")
    say(f"what it computes, and how to call it: {made.card}")


@data.command()
def fetch(
    name: Annotated[str, Argument(help="The data set: cifar10.", show_default=False)],
    to: Annotated[Path, Option(help="Write it to this folder.")] = Path("data"),
    url: Annotated[
        str,
        Option(
            help="Download the same file from here. Default: the authors' server.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Download a data set and check it; a complete file that is there already stays as it is."""
    from zopde.data.fetch import fetch as download

    with Watcher().stage(f"fetching {name}", 100) as advance:
        percent = 0

        def show(done: int, total: int) -> None:
            nonlocal percent
            now = 100 * done // total if total else percent
            advance(now - percent)
            percent = now

        path = download(name, to, url, show)
        advance(100 - percent)
    say(f"{path}: complete, its checksum is right")


def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices, threads, optional parts; exit with 1 if a needed part is missing."""
    from zopde.doctor import examine

    examined = examine()
    if as_json:
        say_json(examined)
    else:
        for name, value in examined["machine"].items():
            say(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
        for needed, title in ((True, "needed"), (False, "optional")):
            parts = [part for part in examined["parts"] if part["needed"] == needed]
            rows = [[p["name"], p["found"] or "missing", p["gives"], p["remedy"]] for p in parts]
            table(("part", "found", "required" if needed else "gives", "to get it"), rows, title)
    raise typer.Exit(0 if examined["sound"] else 1)
