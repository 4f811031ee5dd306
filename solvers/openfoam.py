"""OpenFOAM's solvers, unmodified, on a uniform mesh in two dimensions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from zopde.contracts import Forcing, State
from zopde.errors import InputError
from zopde.grid import Grid
from zopde.solvers.foambox import Box
from zopde.solvers.foamfields import FoamField, FoamFiles
from zopde.solvers.foamtext import FoamSyntaxError, FoamText, content_of, find, put
from zopde.solvers.runs import Runs
from zopde.validate import check_count

_FATAL = "FOAM FATAL"
_PACKAGE = Path("/usr/share/openfoam")  # where Debian's and Ubuntu's package lies
_MESH_SECONDS = 600
_COMMENT = re.compile(rb"/\*.*?\*/", re.DOTALL)
_INCLUDE = re.compile(
    rb'^[ \t]*#(include|sinclude|includeIfPresent)[ \t]+"([^"\n]+)"', re.MULTILINE
)


@final
class OpenFoam:
    """An OpenFOAM solver such as icoFoam: a run of `substeps` time steps for every state.

        (U, p)(t) -> 0/U, 0/p  ->  icoFoam  ->  (U, p)(t + dt)

    The state holds cell values alone: icoFoam makes the face flux phi anew, by interpolating U,
    since a corrected U has none. A run therefore differs from one that was never interrupted
    by what the interpolated flux lacks of mass balance in its first time step. Without "p" in
    `fields` every run starts from the case's p. Every run starts at time 0, so boundary
    conditions that depend on time begin anew; of a time scheme of second order the first step
    is one of first order. Fields are exchanged in binary, bit by bit. The mesh is made once.

    Args:
        case: Folder with 0, constant and system; fields in ascii format, a blockMeshDict of one
            uniform block, one cell thick. It is copied and stays as it is. Along an axis whose
            sides are cyclic, the grid is periodic.
        dt: Time that one step covers, in s; > 0.
        shape: Cells along (y, x); () for those of the case.
        substeps: OpenFOAM's time steps in `dt`.
        fields: Names of the vol fields, scalars or vectors, that make the state, in this order. A
            vector takes two channels, U_x and U_y.
        application: The program.
        concurrency, timeout, failed, keep_failed, work, home: As of `Command`, any executable.

    Raises:
        InputError: If OpenFOAM is not installed, the case's mesh or fields are others, it has no
            mesh, or a state that is written into its fields is not read back.
    """

    def __init__(
        self,
        case: str,
        dt: float,
        shape: Sequence[int] = (),
        substeps: int = 1,
        fields: Sequence[str] = ("U", "p"),
        application: str = "icoFoam",
        concurrency: int = 1,
        timeout: float = 600.0,
        failed: str = "",
        keep_failed: int = 10,
        work: str = "",
        home: str = "",
    ) -> None:
        base = Path(home).resolve()
        check_count("substeps", substeps)
        self._case, self._box = base / case, Box.of(base / case)
        if len(shape) not in (0, 2) or isinstance(fields, str) or not fields:
            got = f"shape {shape}, fields {fields}"
            expected = 'two numbers of cells, a list of names such as ["U", "p"]'
            raise InputError("openfoam", got=got, expected=expected)
        self._fields = tuple(FoamField.of(self._case / "0" / name) for name in fields)
        channels = tuple(name for field in self._fields for name in field.channels)
        cells = tuple(shape) or self._box.shape
        sides = tuple("periodic" if closed else "open" for closed in self._box.periodic)
        self.grid = Grid(cells, self._box.extent, float(dt), channels, boundary=sides)
        FoamFiles(self._fields, cells).check()
        self._substeps, self._application = substeps, application
        self._options: dict[str, Any] = {
            "timeout": timeout,
            "concurrency": concurrency,
            "work": base / work if work else None,
            "failed": base / failed if failed else None,
            "keep_failed": keep_failed,
        }
        self._runs: Runs | None = self._ready()

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One run for every state; see `zopde.Solver.step`."""
        if self._runs is None:  # a copy in another process makes its own mesh
            self._runs = self._ready()
        return self._runs.step(state, forcing)

    def _ready(self) -> Runs:
        check_installed(self._application)
        template = Path(tempfile.mkdtemp(prefix="zopde-case-"))
        weakref.finalize(self, shutil.rmtree, template, ignore_errors=True)
        names = [field.name for field in self._fields]
        prepare(self._case, self._box, self.grid.shape, self._control(), names, template)
        return Runs(
            self._application,
            self.grid,
            FoamFiles(self._fields, self.grid.shape),
            (self._application,),
            environment=environment(),
            error_pattern=_FATAL,
            template=template,
            **self._options,
        )

    def _control(self) -> str:
        dt, substeps = self.grid.dt, self._substeps
        return f"""application {self._application};
startFrom startTime; startTime 0; stopAt endTime; endTime {dt!r};
deltaT {dt / substeps!r}; adjustTimeStep no; runTimeModifiable no;
writeControl timeStep; writeInterval {substeps}; purgeWrite 0;
writeFormat binary; writeCompression off; timeFormat general; timePrecision 12;
"""

    def __getstate__(self) -> dict[str, Any]:
        # The copy of the case belongs to this process, which deletes it.
        return {**self.__dict__, "_runs": None}


def environment() -> dict[str, str]:
    """What OpenFOAM's programs need to be told, unless its own set-up script was sourced."""
    if "WM_PROJECT_DIR" in os.environ or not _PACKAGE.is_dir():
        return {}
    return {"WM_PROJECT_DIR": str(_PACKAGE)}


def check_installed(application: str) -> None:
    """Require OpenFOAM's programs."""
    for name in ("blockMesh", application):
        if shutil.which(name) is None:
            expected = "an OpenFOAM that is installed"
            remedy = "apt install openfoam, or source its etc/bashrc"
            what, got = f"OpenFOAM's {name}", "no such program"
            raise InputError(what, got=got, expected=expected, remedy=remedy)


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
        got = f"{case}: blockMesh says {' | '.join(lines[-4:])}"
        raise InputError("case", got=got, expected="a mesh")


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
