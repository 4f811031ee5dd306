"""A shared library with a `step` written in C, Fortran or anything else that has C's calls."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

from torch import Tensor

from zopde.contracts import Forcing, State
from zopde.errors import InputError, StepError
from zopde.grid import Grid, as_grid
from zopde.solvers import native
from zopde.solvers.pipe import Order, Pipe, numbers_of, state_of
from zopde.solvers.rows import step_rows
from zopde.validate import check_choice

Passed = Literal["value", "reference", "none"]


@final
class SharedLibrary:
    """A function of a shared library that advances one state, in place.

        void step(double *state, const double *forcing, int channels, int ny, int nx)   /* C */
        subroutine step(u, f, channels, ny, nx) bind(c)                           ! Fortran
          integer(c_int), value :: channels, ny, nx;  real(c_double) :: u(nx, ny, channels)

    The forcing is left out where the grid has none; the sizes, (channel, *space), go by value,
    by reference (Fortran without `value`) or not at all. `order` says how the numbers lie,
    as for `Pipe`: "C" is u(nx, ny, channels) in Fortran, "F" is u(channels, ny, nx).

    By default the library is called in helper processes: one that crashes or hangs costs one
    state, told apart in a `SolverError`, and nothing else; what it prints goes to the log. That
    costs some 0.02 ms a state. `isolated=False` calls it in this process, without a time-out.

    Args:
        library: Path of the .so file; relative to `home`.
        grid: A `Grid`, or a table of its arguments.
        symbol: Name of the function; gfortran adds a "_" where there is no bind(c).
        sizes: How the sizes are passed: "value", "reference" or "none".
        order: "C" or "F".
        dtype: Of the function's numbers: "float64" (double, real(c_double)), or "float32" (float,
            real(c_float)).
        status: Whether the function returns an int, 0 where all went well.
        isolated: Whether helper processes call it.
        concurrency, timeout, home: As of `zopde.solvers.pipe.Pipe`.

    Raises:
        InputError: If the library does not load or lacks the function.
    """

    def __init__(
        self,
        library: str,
        grid: Grid | Mapping[str, Any],
        symbol: str = "step",
        sizes: Passed = "value",
        order: Order = "C",
        dtype: Literal["float64", "float32"] = "float64",
        status: bool = False,
        isolated: bool = True,
        concurrency: int = 1,
        timeout: float = 60.0,
        home: str = "",
    ) -> None:
        check_choice("sizes", sizes, ("value", "reference", "none"))
        check_choice("dtype", dtype, ("float64", "float32"))
        self.grid, self._order, self._isolated = as_grid(grid, home), order, isolated
        self._settings: dict[str, Any] = {
            "library": str(Path(home, library).resolve()),
            "symbol": symbol,
            "sizes": self.grid.state_shape,
            "passed": sizes,
            "status": status,
            "dtype": dtype,
        }
        # -I: neither the user's variables nor the folder's files change what Python this is.
        command = [sys.executable, "-I", native.__file__, json.dumps(self._settings)]
        _check(command, symbol)
        self._helpers = Pipe(command, self.grid, order, concurrency, timeout)

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, channel, *space) by dt; see `zopde.Solver.step`."""
        if self._isolated:
            return self._helpers.step(state, forcing)
        return step_rows(self.grid, state, forcing, self._call)

    def __getstate__(self) -> dict[str, Any]:
        # A bound function belongs to this process; another one binds its own.
        return {name: value for name, value in self.__dict__.items() if name != "_bound"}

    @cached_property
    def _bound(self) -> native.Call:
        return native.bind(**self._settings)

    def _call(self, state: Tensor, forcing: Tensor | None) -> Tensor:
        values = bytearray(numbers_of(self._order, state))
        driven = b"" if forcing is None else numbers_of(self._order, forcing)
        try:
            self._bound(values, driven)
        except native.StatusError as error:
            raise StepError(str(error)) from error
        return state_of(values, self._order, self.grid.state_shape)


def _check(command: list[str], symbol: str) -> None:
    """Load it, in a process that may die of it."""
    tried = subprocess.run([*command, "check"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        said = tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"]
        expected = f"a shared library with a function {symbol!r}"
        remedy = "`nm -D` lists its functions"
        raise InputError("library", got=said[-1], expected=expected, remedy=remedy)
