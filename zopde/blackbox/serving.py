"""Any solver as a UM-Bridge 1.0 server: JSON over HTTP, one state at a time."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any, final

import torch
from torch import Tensor

from zopde.blackbox import BlackBox
from zopde.contracts import Solver
from zopde.errors import InputError, SolverError, first_line

log = logging.getLogger(__name__)

_Answer = dict[str, Any]


class _RefusedError(Exception):
    """What the protocol calls an error: a type, and one line."""


@final
class ServedSolver:
    """What a UM-Bridge client may ask of a solver.

    Input: the state's numbers, (channel, *space) with the last dimension fastest, then the
    forcing's if the grid has one. Output: the next state's. Computed in float64, one at a time.
    """

    def __init__(self, solver: Solver, name: str) -> None:
        self._solver, self._name = BlackBox(solver), name
        self._turn = Lock()  # a solver need not bear several threads
        grid = solver.grid
        self._shapes = [grid.state_shape, *([grid.forcing_shape] if grid.forcing_channels else [])]
        self.evaluations = 0

    def answer(self, path: str, body: bytes) -> _Answer:
        """The answer to a request, as JSON has it; an error is an answer, too."""
        try:
            return self._answer(path, body)
        except _RefusedError as error:
            return {"error": dict(zip(("type", "message"), error.args, strict=True))}

    def _answer(self, path: str, body: bytes) -> _Answer:
        sizes = [math.prod(shape) for shape in self._shapes]
        known: dict[str, Callable[[_Answer], _Answer]] = {
            "/Info": lambda _: {"protocolVersion": 1.0, "models": [self._name]},
            "/ModelInfo": self._model_info,
            "/InputSizes": lambda _: {"inputSizes": sizes},
            "/OutputSizes": lambda _: {"outputSizes": sizes[:1]},
            "/Evaluate": self._evaluate,
        }
        try:
            content = json.loads(body or b"{}")
        except ValueError as error:
            raise _RefusedError("InvalidInput", f"request: {first_line(error)}") from error
        if not isinstance(content, dict):
            raise _RefusedError("InvalidInput", "request: expected a JSON object")
        if path not in known:
            raise _RefusedError("UnsupportedFeature", f"{path}: this server knows {list(known)}")
        if path != "/Info" and (name := content.get("name")) != self._name:
            raise _RefusedError("ModelNotFound", f"name: got {name!r}, expected {self._name!r}")
        return known[path](content)

    def _model_info(self, _: _Answer) -> _Answer:
        able = dict.fromkeys(("Gradient", "ApplyJacobian", "ApplyHessian"), False)
        # The grid is no part of the protocol: it is there for zopde's own client.
        return {"support": {"Evaluate": True, **able}, "grid": asdict(self._solver.grid)}

    def _evaluate(self, content: _Answer) -> _Answer:
        given, count = content.get("input"), len(self._shapes)
        if not isinstance(given, list) or len(given) != count:
            raise _RefusedError("InvalidInput", f"input: expected {count} lists of numbers")
        fields = [*map(_field, given, self._shapes)]
        try:
            with self._turn:
                answer = self._solver.step(*fields)
                self.evaluations += 1
        except SolverError as error:
            log.warning("failed: %s", error)
            raise _RefusedError("SolverFailed", first_line(error)) from error
        if not answer.isfinite().all():  # JSON has no word for it, and most clients choke on one
            raise _RefusedError("SolverFailed", "the solver's answer is not finite")
        return {"output": [answer.flatten().tolist()]}


def _field(numbers: object, shape: tuple[int, ...]) -> Tensor:
    """(1, channel, *space) from a list of numbers."""
    try:
        values = torch.tensor(numbers, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _RefusedError("InvalidInput", f"input: {first_line(error)}") from error
    if values.shape != (math.prod(shape),):
        shapes = f"got shape {tuple(values.shape)}, expected {math.prod(shape)} numbers"
        raise _RefusedError("InvalidInput", f"input: {shapes}")
    return values.view(1, *shape)


@final
class SolverServer(ThreadingHTTPServer):
    """A server that is bound, to a free port for 0, and does not run before `serve_forever`."""

    def __init__(self, served: ServedSolver, host: str = "127.0.0.1", port: int = 4242) -> None:
        self.served = served
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            got, expected = f"{host}:{port} ({error})", "a free port of this machine"
            raise InputError("address", got=got, expected=expected) from error
        self.url = "http://{}:{}".format(*self.server_address[:2])

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """A client that went away is no news."""
        log.info("%s: %s", client_address, first_line(sys.exception() or Exception()))


@final
class _Handler(BaseHTTPRequestHandler):
    """HTTP around `ServedSolver.answer`; kept alive, as clients ask thousands of times."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: apart, the second waits 40 ms for the first
    server: SolverServer

    def do_GET(self) -> None:
        """Answer a request, of either method."""
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(int(length)) if length.isdigit() else b""
        answer = self.server.served.answer(self.path, body)
        text = json.dumps(answer).encode()
        self.send_response(400 if "error" in answer else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET  # noqa: N815 - its own name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        """To the log, not to stderr."""
        log.debug("%s %s", self.address_string(), format % args)
