"""A solver behind a network address: the client side of UM-Bridge 1.0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from reprlib import repr as shortened
from typing import Any, final

from torch import Tensor

from zopde.contracts import Forcing, State
from zopde.errors import InputError, StepError
from zopde.grid import Grid, as_grid
from zopde.session import Session, is_address, numbers_of
from zopde.solvers.rows import step_rows
from zopde.validate import MOST_SECONDS, check_choice, check_count, check_positive


@final
class Http:
    """A model of any UM-Bridge 1.0 server; `zopde serve` makes one of any solver.

        POST /Evaluate  {"name": ..., "input": [[state], [forcing]], "config": {...}}
        answer          {"output": [[state]]}  or  {"error": {"type": ..., "message": ...}}

    A state is (channel, *space), the last space dimension fastest. Where a connection breaks,
    the same state is sent again, at most `retries` times; an error that the server reports and a
    time-out fail their state. NaN and Infinity are read as such.

    Args:
        url: "http://host:port".
        grid: A `Grid`, or a table of its arguments; may be left out for `zopde serve`, which
            tells it.
        name: The model's name on the server.
        config: Passed on with every state.
        concurrency: How many states are asked about side by side, >= 1.
        timeout: Seconds for which the server may be silent, > 0.
        retries: How often a broken connection is made anew, >= 0.

    Raises:
        InputError: If no such server answers, or its model has other sizes than the grid.
    """

    def __init__(
        self,
        url: str,
        grid: Grid | Mapping[str, Any] | None = None,
        name: str = "forward",
        config: Mapping[str, Any] | None = None,
        concurrency: int = 1,
        timeout: float = 60.0,
        retries: int = 2,
    ) -> None:
        check_count("concurrency", concurrency)
        check_positive("timeout", timeout, MOST_SECONDS)
        if not (type(retries) is int and retries >= 0):
            raise InputError("retries", got=retries, expected="a whole number >= 0")
        if not is_address(url):
            raise InputError("url", got=repr(url), expected="http://host:port")
        self._url, self._name, self._config = url, name, dict(config or {})
        self._concurrency, self._timeout, self._retries = concurrency, timeout, retries
        self._idle: list[Session] = []
        try:
            self.grid = self._agreed(grid)
        except StepError as error:
            got, expected = f"{url} ({error.reason})", "a UM-Bridge 1.0 server"
            remedy = "start it first; `zopde serve SOLVER` is one"
            raise InputError("url", got=got, expected=expected, remedy=remedy) from error

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, channel, *space) by dt; see `zopde.Solver.step`."""
        return step_rows(self.grid, state, forcing, self._ask, self._concurrency)

    def __getstate__(self) -> dict[str, Any]:
        # A connection belongs to this process; another one makes its own.
        return {**self.__dict__, "_idle": []}

    def _ask(self, state: Tensor, forcing: Tensor | None) -> Tensor:
        given = [v.flatten().tolist() for v in (state, forcing) if v is not None]
        output = self._call("/Evaluate", input=given, config=self._config).get("output")
        try:
            values = numbers_of(output)
        except StepError as error:
            raise StepError(f"the server's output is {error}") from error
        if values.shape != (1, state.numel()):
            shape = f"{tuple(values.shape)}, expected (1, {state.numel()})"
            raise StepError(f"the server's output has shape {shape}")
        return values.view(state.shape)

    def _call(self, path: str, **content: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        try:
            session = self._idle.pop()
        except IndexError:  # every other thread has one
            session = Session(self._url, self._timeout, self._retries)
        try:
            return session.ask(path, None if path == "/Info" else {"name": self._name, **content})
        finally:
            self._idle.append(session)

    def _agreed(self, declared: Grid | Mapping[str, Any] | None) -> Grid:
        info = self._call("/Info")
        if info.get("protocolVersion") != 1:
            raise StepError(f"protocol version {shortened(info.get('protocolVersion'))}")
        models = info.get("models")
        names = [str(name) for name in models] if isinstance(models, list) else []
        check_choice("name", self._name, names)
        model = self._call("/ModelInfo")
        support = model.get("support")
        if not (isinstance(support, dict) and support.get("Evaluate")):
            raise StepError(f"model {self._name!r} does not support Evaluate")
        told = model.get("grid")
        table = declared if declared is not None else told if isinstance(told, dict) else None
        if table is None:
            raise InputError("grid", got="none", expected="one, as this server tells none")
        grid = as_grid(table)
        states, forcings = math.prod(grid.state_shape), math.prod(grid.forcing_shape)
        wanted = {"input": [states, forcings] if forcings else [states], "output": [states]}
        for side, sizes in wanted.items():
            answer = self._call(f"/{side.capitalize()}Sizes", config=self._config)
            told = answer.get(f"{side}Sizes")
            if told != sizes:
                got, expected = f"{side} sizes {sizes}", f"the server's {shortened(told)}"
                raise InputError("grid", got=got, expected=expected)
        return grid
