"""`zopde report`: a run as one page."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from zopde.cli.console import say


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders of correct, classify, defend or certify; several are compared.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write. Default: report.html in the first run folder.",
            show_default=False,
        ),
    ] = None,
    animation: Annotated[
        Path | None,
        typer.Option(
            help="Also write the page's animation to this GIF file (one run of correct, "
            "at most 1.4 MB). Default: in the page alone.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write run folders, finished or not, as one HTML page that needs no other file."""
    from zopde.studies.report import write_report

    with redirect_stdout(sys.stderr):  # a solver that tells its vorticity may print
        place = write_report(runs, out, animation)
    say(f"wrote {place}: {place.stat().st_size / 1e6:.1f} MB")
