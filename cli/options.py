"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from zopde.studies.correct import CorrectionConfig


def solver_names() -> list[str]:
    """Solvers that are installed, for the shell to complete; nothing heavy is loaded."""
    return sorted(point.name for point in entry_points(group="zopde.solvers"))


def presets(study: str) -> Callable[[], list[str]]:
    """Likewise the embedded settings of a study; `study` is the name of its folder."""
    folder = Path(str(files("zopde"))) / "studies" / study / "presets"
    return lambda: sorted(path.stem for path in folder.glob("*.toml"))


SolverSpec = Annotated[
    str,
    typer.Argument(
        help="A name of `zopde solvers`, package.module:Class, file.py:Class, or file.toml.",
        autocompletion=solver_names,
        show_default=False,
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="Embedded settings to start from: quick (minutes) or paper (days).",
        autocompletion=presets("correct"),
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="TOML file laid over the preset. Default: none.", show_default=False
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One setting, such as zo.mu=1e-3 or run.seeds=[0,1,2]; repeatable. Default: none.",
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
ImageFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Images: npz, CIFAR-10 archive, folder of idx files or of train/<class>/. "
        "Default: as the settings; of quick, the embedded digits.",
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="Where to compute: cpu, cuda, cuda:1, ... Default: as the settings."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Measure a sample, print the costs, and stop.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what is there first.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there.")]


def configured(
    solver: str,
    preset: str,
    config_file: Path | None,
    changes: list[str] | None,
    data: Path | None,
    device: str | None,
    **tables: dict[str, object],
) -> CorrectionConfig:
    """The settings that a command's options make, those of `tables` over all others."""
    from zopde.studies.correct import load_config

    tables["solver"] = {"spec": solver}
    if data is not None:
        tables["data"] = {"path": str(data)}
    if device is not None:
        tables["run"] = {**tables.get("run", {}), "device": device}
    return load_config(preset, config_file, changes or (), tables)


def laid_over(data: Path | None, device: str | None) -> dict[str, dict[str, object]]:
    """The tables of settings that `--data` of images and `--device` stand for."""
    given = {"data": ("path", data), "run": ("device", device)}
    return {table: {key: str(value)} for table, (key, value) in given.items() if value is not None}
