"""`zopde simulate`: reference data of a solver."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zopde.cli.console import Watcher, say
from zopde.cli.options import Changes, ConfigFile, Overwrite, Preset, SolverSpec, configured


def simulate(
    solver: SolverSpec,
    out: Annotated[Path, typer.Option(help="NetCDF file to write.", show_default=False)],
    preset: Preset = "quick",
    config_file: ConfigFile = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
) -> None:
    """Run a solver on the fine grid and keep the runs on the coarse grid, as NetCDF."""
    from zopde.data import save_trajectories
    from zopde.studies.correct.problem import make_data
    from zopde.validate import check_new_file

    config = configured(solver, preset, config_file, changes, None, None)
    check_new_file("--out", out, overwrite)
    data = make_data(config, Watcher())
    save_trajectories(data, out)
    say(f"wrote {out}: {data.simulations} simulations of {data.steps} steps on {data.grid.shape}")
