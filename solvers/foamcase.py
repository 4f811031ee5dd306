"""An OpenFOAM case: where the programs are, what its mesh is, and the copy that is run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from zopde.errors import InputError
from zopde.solvers.foambox import Box
from zopde.solvers.foamtext import FoamSyntaxError, FoamText, content_of, find, put

_PACKAGE = Path("/usr/share/openfoam")  # where Debian's and Ubuntu's package lies
_MESH_SECONDS = 600


def environment() -> dict[str, str]:
    """What OpenFOAM's programs need to be told, unless its own set-up script was sourced."""
    if "WM_PROJECT_DIR" in os.environ or not _PACKAGE.is_dir():
        return {}
    return {"WM_PROJECT_DIR": str(_PACKAGE)}


def check_installed(application: str) -> None:
    """Require OpenFOAM's programs."""
    for name in ("blockMesh", application):
        if shutil.which(name) is None:
            raise InputError(
                f"OpenFOAM's {name}",
                got="no such program",
                expected="an OpenFOAM that is installed",
                remedy="apt install openfoam, or source its etc/bashrc",
            )


def prepare(
    case: Path, box: Box, shape: tuple[int, ...], control: str, fields: Sequence[str], folder: Path
) -> None:
    """Make in `folder`, which is empty, what every run's folder is a copy of: settings and mesh.

    The user's case stays as it is; the entries of `control` go behind its controlDict's. `fields`
    are those that make the state: what a run left beside them in 0 is not copied, as a solver
    would take the flux phi, or an older time, for the state's.
    """
    old = ["polyMesh", "time", "time.gz", *(f"{name}_0*" for name in fields)]
    old += ["phi", "phi.gz"] if "U" in fields else []
    for name, without in (("0", old), ("constant", ["polyMesh"]), ("system", [])):
        if not (case / name).is_dir():
            raise InputError("case", got=f"no {case / name}", expected="0, constant and system")
        shutil.copytree(case / name, folder / name, ignore=shutil.ignore_patterns(*without))
    put(folder / "system" / "blockMeshDict", box.dictionary(shape))
    path = folder / "system" / "controlDict"
    try:
        # Of an entry that is there twice, OpenFOAM takes the last.
        content = content_of(find(path) or path)
        FoamText.of(content).check_last_counts()
    except FoamSyntaxError as error:
        what = f"controlDict of {case}"
        expected = "a dictionary of OpenFOAM, and no directive but #include between entries"
        raise InputError(what, got=str(error), expected=expected) from error
    put(path, content + f"\n{control}".encode())
    made = subprocess.run(
        ["blockMesh"],
        cwd=folder,
        env={**os.environ, **environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",  # it quotes the case's files, whatever their encoding
        timeout=_MESH_SECONDS,
        check=False,
    )
    if made.returncode:
        lines = [line.strip() for line in (made.stdout + made.stderr).splitlines() if line.strip()]
        raise InputError(
            "case", got=f"{case}: blockMesh says {' | '.join(lines[-4:])}", expected="a mesh"
        )
