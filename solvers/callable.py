"""A function of NumPy arrays or torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, final

import torch
from torch import Tensor

from zopde.contracts import Forcing, State
from zopde.errors import InputError, MistakeError, SolverError, StepError, first_line, is_interrupt
from zopde.grid import Grid, as_grid, check_forcing, check_state
from zopde.plugins import load_object
from zopde.solvers.rows import gathered, own_copy, reals, step_rows
from zopde.validate import check_choice


def loaded(function: str | Callable[..., Any], home: str | Path) -> Callable[..., Any]:
    """The function that "package.module:name" or "file.py:name" stands for; one stays as it is."""
    value = load_object(function, home) if isinstance(function, str) else function
    if not callable(value):
        got = f"{function!r}, a {type(value).__name__}"
        raise InputError("function", got=got, expected="a function")
    return cast(Callable[..., Any], value)


@final
class PythonFunction:
    """A function that advances a state: f(u) -> u, or f(u, forcing) -> u on a grid with forcing.

    A NumPy function is given float64 arrays, a torch function tensors of the state's own dtype
    and device; it may write into them. It sees (channel, *space), or with `batched` the whole
    (batch, channel, *space), and answers the same shape.

    Where it sees one state, what it raises fails that state alone; a batched one fails the
    batch. Answers that are not finite are failures of their states in both cases. An answer of
    another type or shape is a mistake, which ends a run. A masked cell is NaN.

    Args:
        function: "package.module:function", "file.py:function", or the function itself.
        grid: A `Grid`, or a table of its arguments.
        batched: Whether it takes a batch.
        arrays: "numpy" or "torch".
        home: Folder that a relative "file.py" is in; "": the current one.

    Raises:
        InputError: If there is no such function.
    """

    def __init__(
        self,
        function: str | Callable[..., Any],
        grid: Grid | Mapping[str, Any],
        batched: bool = False,
        arrays: Literal["numpy", "torch"] = "numpy",
        home: str = "",
    ) -> None:
        check_choice("arrays", arrays, ("numpy", "torch"))
        self.grid, self._function = as_grid(grid, home), loaded(function, home)
        self._batched, self._arrays = batched, arrays

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, channel, *space) by dt; see `zopde.Solver.step`."""
        if self._batched:
            return self._step_batch(state, forcing)
        return step_rows(self.grid, state, forcing, self._ask, prepared=self._prepared)

    def _step_batch(self, state: State, forcing: Forcing | None) -> State:
        check_state(self.grid, state)
        check_forcing(self.grid, forcing, len(state))
        given = None if forcing is None else self._prepared(forcing)
        try:
            answers = self._ask(self._prepared(state), given)
        except StepError as error:
            raise SolverError(error.reason) from error
        return gathered(self.grid, state, answers)

    def _prepared(self, values: Tensor) -> Tensor:
        return values.detach().clone() if self._arrays == "torch" else own_copy(values)

    def _ask(self, state: Tensor, forcing: Tensor | None) -> Tensor:
        given = [values for values in (state, forcing) if values is not None]
        try:
            with torch.no_grad():
                if self._arrays == "torch":
                    answer = self._function(*given)
                else:
                    answer = reals(self._function(*(values.numpy() for values in given)))
        except MistakeError as error:
            raise MistakeError(f"the function {error}") from error
        except BaseException as error:  # it is the user's code and may raise anything
            if is_interrupt(error):
                raise
            name = type(error).__name__
            raise StepError(f"the function raised {name}: {first_line(error)}") from error
        if not isinstance(answer, Tensor) or not answer.is_floating_point():
            got = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
            expected = "a tensor of floating-point numbers"
            raise MistakeError(f"the function answered something else than {expected}: {got}")
        if answer.shape != state.shape:
            shapes = f"{tuple(answer.shape)}, expected {tuple(state.shape)}"
            raise MistakeError(f"the function answered an array of shape {shapes}")
        return answer
