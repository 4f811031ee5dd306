"""Options that several commands share, and the setting that each of them stands for."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

# Option of a command -> the setting that it stands for.
SETTING_OF = {
    "solver": "solver.spec",
    "classifier": "classifier.spec",
    "data": "data.path",
    "device": "run.device",
    "chunk": "zo.chunk",
    "executor": "run.executor",
    "failures": "run.failures",
    "store": "run.store",
    "budget": "compare.budget",
}

# What the keys of a cut's price are called above their columns.
CUT_HEADS = {"setup_steps": "steps once", "setup_seconds": "seconds once", "steps": "solver steps"}


def solver_names(incomplete: str) -> Iterator[str]:
    """Names of installed solvers, for the shell to complete; no solver is loaded."""
    names = sorted(point.name for point in entry_points(group="zopde.solvers"))
    return (name for name in names if name.startswith(incomplete))


SolverSpec = Annotated[
    str,
    Argument(
        help="The solver: a name that `zopde solvers` lists, package.module:Class, file.py:Class, "
        "or file.toml.",
        autocompletion=solver_names,
    ),
]
Preset = Annotated[
    str, Option(help="Start from the settings of this preset: quick (minutes) or paper (days).")
]
ConfigFile = Annotated[
    Path | None,
    Option("--config", help="Change settings of the preset by this TOML file. Default: none."),
]
Changes = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting, such as zo.mu=1e-3 or run.seeds=[0,1,2]; repeatable. "
        "Default: none.",
    ),
]
ImageFile = Annotated[
    Path | None,
    Option(
        "--data",
        help="Read the images from here: an npz file, the CIFAR-10 archive, a folder of idx files "
        "or of train/<class>/ pictures. Default: the embedded digits, unless the settings name "
        "others.",
    ),
]
Device = Annotated[
    str | None,
    Option(help="Compute on this device: cpu, cuda, cuda:1, ... Default: as in the settings."),
]
Seeds = Annotated[
    int | None,
    Option(help="Train with so many seeds, from 0. Default: as in the settings."),
]
Resume = Annotated[bool, Option("--resume", help="Continue the interrupted run in --out.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Delete what zopde wrote to --out before.")]
AsJson = Annotated[bool, Option("--json", help="Print the result as JSON.")]


def tables_of(**options: object) -> dict[str, dict[str, object]]:
    """The tables of settings that options stand for; None leaves a setting as it is."""
    tables: dict[str, dict[str, object]] = {}
    for option, value in options.items():
        if value is not None:
            table, key = SETTING_OF[option].split(".")
            tables.setdefault(table, {})[key] = str(value) if isinstance(value, Path) else value
    return tables
