"""`zopde report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from zopde.cli.console import prints_to_stderr, say


def report(
    runs: Annotated[
        list[Path],
        Argument(help="Run folders of correct, classify, defend or certify; several are compared."),
    ],
    out: Annotated[
        Path | None, Option(help="Write this HTML file. Default: report.html in the first folder.")
    ] = None,
    animation: Annotated[
        Path | None,
        Option(
            help="Write the page's animation also to this GIF file (one run of correct, "
            "at most 1.4 MB). Default: in the page alone."
        ),
    ] = None,
) -> None:
    """Write run folders, finished or not, as one HTML page that needs no other file."""
    from zopde.studies.report import write_report

    with prints_to_stderr():  # a solver that tells its vorticity may print
        page = write_report(runs, out, animation)
    say(f"wrote {page}: {page.stat().st_size / 1e6:.1f} MB")
