"""A Tesseract as a solver: a component that others wrote, with an `apply`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np

from zopde.contracts import Forcing, State
from zopde.errors import InputError, MistakeError, first_line
from zopde.grid import Grid, as_grid
from zopde.session import is_address
from zopde.solvers.callable import PythonFunction
from zopde.validate import check_choice

_FAILED = "Error running Tesseract API apply: "  # behind a traceback, what the component said
Names = str | list[str]


@final
class Tesseract:
    """A component of Tesseract Core, loaded into this process or served; it needs no derivative.

        next state = apply({input: state, forcing: forcing, **others})[output]

    An array is float64 (channel, *space), or with `batched` (batch, channel, *space). A list names
    an array for each channel, without that axis. What `apply` raises fails its state. Arrays that
    do not suit the component's declaration, or the state, end a run.

    Args:
        api: Path of a tesseract_api.py, relative to `home`; or "http://host:port" of one served.
        grid: A `Grid`, or a table of its arguments.
        input: Name of the input that the state goes to, or a list, one for each channel.
        output: Of the output with the next state, likewise; "": as `input`.
        forcing: Of the input that the forcing goes to, likewise, on a grid with forcing.
        others: Inputs of other names, and their values, the same at every step.
        batched: Whether the arrays have a batch axis.
        home: Folder that a relative `api` is in; "": the current one.

    Raises:
        InputError: If `tesseract-core` is missing, or the component does not load, does not
            answer, or has no such inputs and outputs.
    """

    def __init__(
        self,
        api: str,
        grid: Grid | Mapping[str, Any],
        input: Names = "state",  # noqa: A002 - the word of a component
        output: Names = "",
        forcing: Names = "",
        others: Mapping[str, Any] | None = None,
        batched: bool = False,
        home: str = "",
    ) -> None:
        self.grid, self._others = as_grid(grid, home), dict(others or {})
        self._api = api if is_address(api) else str(Path(home, api).resolve())
        self._given, self._output = (input, forcing), output or input
        self._axis = 1 if batched else 0  # of the channels
        self._function = PythonFunction(self._apply, self.grid, batched)
        self._check()

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """Advance (batch, channel, *space) by dt; see `zopde.Solver.step`."""
        return self._function.step(state, forcing)

    def __getstate__(self) -> dict[str, Any]:
        # A component belongs to this process; another one loads its own.
        return {name: value for name, value in self.__dict__.items() if name != "_component"}

    @cached_property
    def _component(self) -> Any:  # noqa: ANN401 - of a package without types
        try:
            from tesseract_core import Tesseract as Component

            made = Component.from_url if is_address(self._api) else Component.from_tesseract_api
            component = made(self._api)
            _ = component.openapi_schema  # a server is asked for the first time
            return component
        except Exception as error:  # whatever the component's file, or a server, comes to
            root: BaseException = error
            while root.__cause__ is not None:
                root = root.__cause__
            got = f"{self._api} ({type(root).__name__}: {first_line(root)})"
            expected = "a tesseract_api.py that loads, or a Tesseract that answers"
            remedy = "pip install 'zopde[tesseract]'" * isinstance(error, ImportError)
            raise InputError("api", got=got, expected=expected, remedy=remedy) from error

    def _check(self) -> None:
        """Require the names that the component declares, and as many as there are channels."""
        schemas = self._component.openapi_schema["components"]["schemas"]
        inputs, outputs = (schemas[f"Apply_{side}Schema"] for side in ("Input", "Output"))
        (state, forcing), grid = self._given, self.grid
        for what, names, wanted, schema in (
            ("input", state, grid.channels, inputs),
            ("forcing", forcing, grid.forcing_channels, inputs),
            ("output", self._output, grid.channels, outputs),
        ):
            if len(_listed(names)) != (len(wanted) if isinstance(names, list) else bool(wanted)):
                expected = f"one name, or one for each of {list(wanted)}" if wanted else "none"
                raise InputError(what, got=repr(names), expected=expected)
            for name in _listed(names):
                check_choice(what, name, schema["properties"])
        for name in self._others:
            check_choice("others", name, inputs["properties"])
        given = {*_listed(state), *_listed(forcing), *self._others}
        if missing := sorted(set(inputs.get("required", ())) - given):
            got = f"no value of {', '.join(missing)}"
            raise InputError("others", got=got, expected="one for each input of the component")

    def _apply(self, *fields: np.ndarray) -> np.ndarray:
        """The next state, or states; what the component raises, in one line."""
        payload = dict(self._others)
        for names, values in zip(self._given, fields, strict=False):
            parts = [values] if isinstance(names, str) else np.moveaxis(values, self._axis, 0)
            payload |= zip(_listed(names), parts, strict=True)
        try:
            # By one name: each call of another leaves a folder behind.
            answer = self._component.apply(payload, run_id="zopde")
        except ValueError as error:  # what is no input, or output, as it was declared
            raise MistakeError(f"of {self._api}: {' '.join(str(error).split())}") from error
        except RuntimeError as error:
            said = str(error).rpartition(_FAILED)[2].removesuffix(" (see above for full traceback)")
            raise RuntimeError(f"{self._api}: {' '.join(said.split())}") from error
        parts = [np.asarray(answer[name]) for name in _listed(self._output)]
        return parts[0] if isinstance(self._output, str) else np.stack(parts, self._axis)


def _listed(names: Names) -> list[str]:
    return ([names] if names else []) if isinstance(names, str) else names
