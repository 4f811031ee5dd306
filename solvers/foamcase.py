"""An OpenFOAM case: where the programs are, what its mesh is, and the copy that is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from zopde.errors import InputError
from zopde.solvers.foambox import Box
from zopde.solvers.foamtext import FoamSyntaxError, FoamText, content_of, find, put

_PACKAGE = Path("/usr/share/openfoam")  # where Debian's and Ubuntu's package lies
_MESH_SECONDS = 600
_COMMENT = re.compile(rb"/\*.*?\*/", re.DOTALL)
_INCLUDE = re.compile(
    rb'^[ \t]*#(include|sinclude|includeIfPresent)[ \t]+"([^"\n]+)"', re.MULTILINE
)


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
    _check_includes(case, folder)
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


def _check_includes(case: Path, folder: Path) -> None:
    """Require every file that the copied ones include to be found from the copy, too.

    One that need not be there would be left out in silence. Where names with variables other
    than FOAM_CASE lead, OpenFOAM alone knows.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        inside = path.relative_to(folder)
        with suppress(FoamSyntaxError):  # OpenFOAM says of a broken archive what it is
            for directive, raw in _INCLUDE.findall(_COMMENT.sub(b"", content_of(path))):
                name = raw.decode("latin-1")
                theirs, ours = (_named(name, root, inside.parent) for root in (case, folder))
                there, needed = theirs.is_file(), directive == b"include"
                if "$" in str(ours) or name[0] in "<~" or ours.is_file() or not (there or needed):
                    continue
                where = "outside of its folders 0, constant and system" if there else "not there"
                got = f'#include "{name}" in {case / inside}, a file that is {where}'
                remedy = f"put the file into {case / 'constant'} and include it from there"
                raise InputError("case", got=got, expected="files of the case", remedy=remedy)


def _named(name: str, root: Path, inside: Path) -> Path:
    """The file that an #include in the folder `inside` of a case names."""
    for variable in ("$FOAM_CASE", "${FOAM_CASE}"):
        name = name.replace(variable, str(root.resolve()))
    return root / inside / name
