"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SolverSpec = Annotated[
    str,
    typer.Argument(
        help="A name of `zopde solvers`, package.module:Class, or file.py:Class.",
        show_default=False,
    ),
]
Preset = Annotated[
    str, typer.Option(help="Embedded settings to start from: quick (minutes) or paper (days).")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file laid over the preset.", show_default=False),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One setting, such as zo.mu=1e-3 or run.seeds=[0,1,2]; repeatable.",
        show_default=False,
    ),
]
DataFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="NetCDF file of reference data; made there if absent. Default: beside --out.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what is there first.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there.")]
