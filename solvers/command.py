"""Any executable as a solver: a run of its own for every state."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, final

from zopde.contracts import Forcing, State
from zopde.errors import InputError
from zopde.grid import Grid, as_grid
from zopde.solvers.files import ArrayFiles, Format, FunctionFiles
from zopde.solvers.runs import Runs, command_line


@final
class Command:
    """Any executable: started once for every state, in a folder of its own.

        step(u)_b = read(run(write(u_b))),   b = 1 .. batch

    The run's folder is a copy of `template` and the run's working folder; it is deleted
    afterwards, or kept where the run failed. A run fails that ends with another code than 0, takes
    longer than `timeout`, matches `error_pattern` in what it prints, or leaves no answer, a
    short one, one of another shape or one that is not finite. A cell that `read` masks is NaN.
    All other runs of the batch come to their end, and their answers travel in the `SolverError`.
    Ctrl-C ends all of them. An answer of whole or complex numbers is a mistake, which ends a
    training.

    Args:
        command: The arguments, the program first. {state}, {forcing} and {answer} stand for the
            names of the files, {folder} for the run's folder, {home} for `home`, {seed} for
            `seed`. A relative path of the program is looked for in `home`, then in `template`.
        grid: A `Grid`, or a table of its arguments.
        files: "npy", "raw" (the numbers alone) or "netcdf" (a variable for every channel).
        dtype: Of the numbers in files: "float64", "float32", or with a byte order, ">f8".
        order: Of raw files. "C" is `u(x, y, channel)` in Fortran's words, "F" `u(channel, y, x)`.
        state: Name of the file that a run reads; "" for state.npy, .bin or .nc.
        forcing: Likewise; written where the grid has forcing channels.
        answer: Name of the file that a run writes; "" for answer.npy, .bin or .nc.
        write: A Python function instead, "file.py:name": write(folder, state, forcing), of NumPy
            arrays (channel, *space).
        read: The other one: read(folder) -> (channel, *space).
        template: Folder that every run's is a copy of; "" for an empty one.
        timeout: Seconds from the start of a run, however long it waited for its turn.
        concurrency: Runs side by side; give each its own core.
        environment: Variables over those of this process.
        error_pattern: A regular expression (`^` and `$` match at lines); "" for none.
        seed: Of a stochastic program, the same for every state: the noise then cancels in
            differences.
        failed: Folder for the runs that failed; "" for one in the temporary folder.
        keep_failed: Runs kept there at most; the oldest go.
        work: Folder in which the runs' folders are made; "" for the temporary folder.
        home: What relative paths are relative to.

    Raises:
        InputError: If the program or a folder is not found, or a value is not legal.
    """

    def __init__(
        self,
        command: Sequence[str],
        grid: Grid | Mapping[str, Any],
        files: Format = "npy",
        dtype: str = "float64",
        order: Literal["C", "F"] = "C",
        state: str = "",
        forcing: str = "",
        answer: str = "",
        write: str = "",
        read: str = "",
        template: str = "",
        timeout: float = 3600.0,
        concurrency: int = 1,
        environment: Mapping[str, str] | None = None,
        error_pattern: str = "",
        seed: int = 0,
        failed: str = "",
        keep_failed: int = 10,
        work: str = "",
        home: str = "",
    ) -> None:
        self.grid, base = as_grid(grid, home), Path(home).resolve()
        if bool(write) != bool(read):
            raise InputError("write, read", got="one of them", expected="both or none")
        copied = base / template if template else None
        arguments = command_line(command, base, copied)
        self._runs = Runs(
            name=f"command {Path(arguments[0]).name!r}",
            grid=self.grid,
            files=FunctionFiles(write, read, base)
            if write
            else ArrayFiles(self.grid, files, dtype, order, state, forcing, answer),
            arguments=arguments,
            values={"home": str(base), "seed": str(seed)},
            environment=dict(environment or {}),
            timeout=timeout,
            concurrency=concurrency,
            error_pattern=error_pattern,
            template=copied,
            work=base / work if work else None,
            failed=base / failed if failed else None,
            keep_failed=keep_failed,
        )

    def with_seed(self, seed: int) -> Command:
        """Another value of {seed}; this one where the command has none."""
        runs = self._runs
        if not any("{seed}" in word for word in runs.arguments):
            return self
        twin = copy.copy(self)
        twin._runs = replace(runs, values={**runs.values, "seed": str(seed)})
        return twin

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One run for every state; see `zopde.Solver.step`."""
        return self._runs.step(state, forcing)
