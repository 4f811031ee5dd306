"""OpenFOAM's solvers, unmodified, on a uniform mesh in two dimensions."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from zopde.contracts import Forcing, State
from zopde.errors import InputError
from zopde.grid import Grid
from zopde.solvers.foambox import Box
from zopde.solvers.foamcase import check_installed, environment, prepare
from zopde.solvers.foamfields import FoamField, FoamFiles
from zopde.solvers.runs import Runs
from zopde.validate import check_count

_FATAL = "FOAM FATAL"


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
