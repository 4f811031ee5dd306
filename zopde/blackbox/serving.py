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

from zopde.blackbox import BlackBox
from zopde.contracts import Solver
from zopde.errors import InputError, SolverError, first_line

log = logging.getLogger(__name__)

_Answer = dict[str, Any]


class _RefusedError(Exception):
    """What the protocol calls an error: a type, and one line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@final
class ServedSolver:
    """What a UM-Bridge client may ask of a solver.

    Input: the state's numbers, (channel, *space) with the last dimension fastest, then the
    forcing's if the grid has one. Output: the next state's. Computed in float64.

    Args:
        solver: Any solver; it is asked one state at a time.
        name: What clients call it.
    """

    def __init__(self, solver: Solver, name: str) -> None:
        self._solver, self._name = BlackBox(solver), name
        self._turn = Lock()
        grid = solver.grid
        self._shapes = [grid.state_shape, *([grid.forcing_shape] if grid.forcing_channels else [])]
        self.evaluations = 0

    def answer(self, path: str, content: _Answer) -> _Answer:
        """The answer to a request; an error is an answer, too."""
        ways: dict[str, Callable[[_Answer], _Answer]] = {
            "/Info": self._info,
            "/ModelInfo": self._model_info,
            "/InputSizes": lambda _: {"inputSizes": self._sizes()},
            "/OutputSizes": lambda _: {"outputSizes": self._sizes()[:1]},
            "/Evaluate": self._evaluate,
        }
        try:
            if path not in ways:
                raise _RefusedError("UnsupportedFeature", f"{path}: this server knows {list(ways)}")
            if path != "/Info" and content.get("name") != self._name:
                found, expected = content.get("name"), self._name
                raise _RefusedError("ModelNotFound", f"name: got {found!r}, expected {expected!r}")
            return ways[path](content)
        except _RefusedError as error:
            return _error(error.kind, str(error))

    def _info(self, _: _Answer) -> _Answer:
        return {"protocolVersion": 1.0, "models": [self._name]}

    def _model_info(self, _: _Answer) -> _Answer:
        able = dict.fromkeys(("Gradient", "ApplyJacobian", "ApplyHessian"), False)
        # The grid is no part of the protocol: it is there for zopde's own client.
        return {"support": {"Evaluate": True, **able}, "grid": asdict(self._solver.grid)}

    def _sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self._shapes]

    def _evaluate(self, content: _Answer) -> _Answer:
        given = content.get("input")
        if not isinstance(given, list) or len(given) != len(self._shapes):
            raise _RefusedError(
                "InvalidInput", f"input: expected {len(self._shapes)} lists of numbers"
            )
        values = []
        for vector, shape in zip(given, self._shapes, strict=True):
            try:
                tensor = torch.tensor(vector, dtype=torch.float64)
            except (TypeError, ValueError, RuntimeError) as error:
                raise _RefusedError("InvalidInput", f"input: {first_line(error)}") from error
            if tensor.shape != (math.prod(shape),):
                raise _RefusedError(
                    "InvalidInput",
                    f"input: got shape {tuple(tensor.shape)}, expected {math.prod(shape)} numbers",
                )
            values.append(tensor.view(1, *shape))
        with self._turn:  # a solver need not bear several threads
            try:
                answer = self._solver.step(*values)
            except SolverError as error:
                log.warning("failed: %s", error)
                raise _RefusedError("SolverFailed", first_line(error)) from error
            self.evaluations += 1
        if not answer.isfinite().all():  # JSON has no word for it, and most clients choke on one
            raise _RefusedError("SolverFailed", "the solver's answer is not finite")
        return {"output": [answer.flatten().tolist()]}


@final
class SolverServer(ThreadingHTTPServer):
    """A server that is bound and does not run yet; `serve_forever` runs it.

    Args:
        served: What it answers with.
        host: Address to listen on; "0.0.0.0" is every one of this machine's.
        port: Port to listen on; 0 takes a free one.

    Raises:
        InputError: If the address is not to be had.
    """

    def __init__(self, served: ServedSolver, host: str = "127.0.0.1", port: int = 4242) -> None:
        self.served = served
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(
                "address", got=f"{host}:{port} ({error})", expected="a free port of this machine"
            ) from error

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

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
        """Answer /Info."""
        self._reply()

    def do_POST(self) -> None:
        """Answer everything else."""
        self._reply()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        """To the log, not to stderr."""
        log.debug("%s %s", self.address_string(), format % args)

    def _reply(self) -> None:
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(int(length)) if length.isdigit() else b""
        answer = self._answer(body)
        text = json.dumps(answer).encode()
        self.send_response(400 if "error" in answer else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _answer(self, body: bytes) -> _Answer:
        try:
            content = json.loads(body or b"{}")
        except ValueError as error:
            return _error("InvalidInput", f"request: {first_line(error)}")
        if not isinstance(content, dict):
            return _error("InvalidInput", "request: expected a JSON object")
        return self.server.served.answer(self.path, content)


def _error(kind: str, message: str) -> _Answer:
    return {"error": {"type": kind, "message": message}}
