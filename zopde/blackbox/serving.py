"""Any solver as a UM-Bridge 1.0 server: JSON over HTTP, one state at a time."""

from __future__ import annotations

import errno
import json
import logging
import math
import re
import resource
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from reprlib import repr as shortened
from threading import Lock
from typing import Any, cast, final
from urllib.parse import urlsplit

from torch import Tensor

from zopde.blackbox import BlackBox
from zopde.contracts import Solver
from zopde.errors import InputError, SolverError, StepError, first_line
from zopde.session import numbers_of

log = logging.getLogger(__name__)

_Answer = dict[str, Any]
_PATIENCE = 10.0  # seconds for the head of a request, and for a small body or answer
_SLOWEST = 50_000  # bytes in a second, of large ones
_LINGER = 2.0  # seconds in which a refused client may finish its sentence and read why
_GRACE = 0.2  # seconds that a client has in any case, even where others wait for its place
_MOMENT = 0.005  # seconds
_MOST = 512  # open connections: each takes a thread and a file handle
_NUMBER, _ROOM = 32, 2**16  # bytes of a body: for a number, and for all that is none


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
        self.largest_body = _ROOM + _NUMBER * sum(map(math.prod, self._shapes))  # bytes

    def answer(self, path: str, body: bytes) -> _Answer:
        """The answer to a request, as JSON has it; an error is an answer, too."""
        try:
            return self._answer(path, body)
        except _RefusedError as error:
            return error_of(*error.args)
        except BaseException as error:  # whatever it is, the client must hear of it
            log.exception("%s", path)
            return error_of("ServerError", first_line(error))

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
        except (ValueError, RecursionError) as error:
            raise _RefusedError("InvalidInput", f"request: {first_line(error)}") from error
        if not isinstance(content, dict):
            raise _RefusedError("InvalidInput", "request: expected a JSON object")
        if path not in known:
            raise _RefusedError("UnsupportedFeature", f"{path[:80]}: this server knows {[*known]}")
        if path != "/Info" and (name := content.get("name")) != self._name:
            got = f"name: got {shortened(name)}, expected {self._name!r}"
            raise _RefusedError("ModelNotFound", got)
        return known[path](content)

    def _model_info(self, _: _Answer) -> _Answer:
        able = dict.fromkeys(("Gradient", "ApplyJacobian", "ApplyHessian"), False)
        # The grid is no part of the protocol: it is there for zopde's own client.
        grid = {k: v for k, v in asdict(cast(Any, self._solver.grid)).items() if v is not None}
        return {"support": {"Evaluate": True, **able}, "grid": grid}

    def _evaluate(self, content: _Answer) -> _Answer:
        given, count = content.get("input"), len(self._shapes)
        if not isinstance(given, list) or len(given) != count:
            raise _RefusedError("InvalidInput", f"input: expected {count} lists of numbers")
        if content.get("config"):
            why = "config: expected none, as this model has no options"
            raise _RefusedError("InvalidInput", why)
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
        values = numbers_of(numbers)
    except StepError as error:
        raise _RefusedError("InvalidInput", f"input: {error}") from error
    if values.shape != (math.prod(shape),):
        shapes = f"got shape {tuple(values.shape)}, expected {math.prod(shape)} numbers"
        raise _RefusedError("InvalidInput", f"input: {shapes}")
    if not values.isfinite().all():
        raise _RefusedError("InvalidInput", "input: expected finite numbers")
    return values.view(1, *shape)


def error_of(kind: str, message: str) -> _Answer:
    """An error as the protocol has it."""
    return {"error": {"type": kind, "message": message}}


@final
class SolverServer(ThreadingHTTPServer):
    """A server that is bound, to a free port for 0, and does not run before `serve_forever`.

    It hangs up on clients that keep it waiting, when their time is over or their place is needed.
    """

    request_queue_size = 1024  # clients that may connect in one moment

    def __init__(self, served: ServedSolver, host: str = "127.0.0.1", port: int = 4242) -> None:
        self.served = served
        self._open: set[socket.socket] = set()  # connections
        # Connections with whose clients it is to speak: since when, and until when
        self.waiting: dict[socket.socket, tuple[float, float]] = {}
        handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Half of the handles are left to the solver.
        self._most = _MOST if handles == resource.RLIM_INFINITY else min(_MOST, handles // 2)
        if not host.strip():
            remedy = "127.0.0.1 serves this machine alone, 0.0.0.0 whoever reaches it"
            raise InputError("host", got=repr(host), expected="an address", remedy=remedy)
        try:
            self.address_family = socket.getaddrinfo(host, None)[0][0]
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError, ValueError) as error:
            got, expected = f"{host}:{port} ({error})", "a free port of this machine"
            raise InputError("address", got=got, expected=expected) from error
        address, number = str(self.server_address[0]), self.server_address[1]
        self.loopback = ip_address(address).is_loopback  # whether only this machine gets here
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{number}"
        names = (host, self.server_name, socket.gethostname(), "localhost")
        self._names = {name.lower().rstrip(".") for name in names}

    def known_as(self, host: str) -> bool:
        """Whether a request to `host` means this server.

        An address is always right. A name must be ours: a web page may let its own name lead
        here, and its reader's browser would then hand it our answers (DNS rebinding).
        """
        with suppress(ValueError):
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            return "@" not in host and (name in self._names or bool(ip_address(name)))
        return False

    def expect(self, client: socket.socket, seconds: float | None) -> None:
        """Hang up on a client that is not done in so many seconds; None: it may take its time."""
        now = time.monotonic()
        if seconds is None:
            self.waiting.pop(client, None)
        else:
            self.waiting[client] = now, now + seconds

    def service_actions(self) -> None:
        """Hang up on whoever is late; called after every connection, and every half second."""
        now = time.monotonic()
        for client, (_, until) in list(self.waiting.items()):
            if now > until:
                self._hang_up(client)

    def _hang_up(self, client: socket.socket) -> None:
        self.waiting.pop(client, None)
        with suppress(OSError):  # it is gone already
            client.shutdown(socket.SHUT_RD)  # what it has sent is still read, and answered

    def _make_room(self) -> None:
        """Hang up on who has kept us waiting for longest, and give it a moment to go."""
        self.service_actions()
        waiting = list(self.waiting.items())
        if waiting:
            client, (since, _) = min(waiting, key=lambda item: item[1])
            if time.monotonic() - since > _GRACE:
                self._hang_up(client)
        time.sleep(_MOMENT)

    def get_request(self) -> tuple[socket.socket, Any]:
        """A new connection; where no file handle is left, somebody who idles gives one back."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room()
            raise  # the next client is tried again

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - its own
        """Answer a connection in a thread of its own, as soon as there is room for one more."""
        while len(self._open) >= self._most:
            self._make_room()
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - its own name
        """Close a connection."""
        super().shutdown_request(request)
        self._open.discard(request)
        self.expect(request, None)

    def server_close(self) -> None:
        """End, and hang up on everybody."""
        super().server_close()
        for client in list(self._open):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """A client that went away is no news."""
        log.info("%s: %s", client_address, first_line(sys.exception() or Exception()))


@final
class _Handler(BaseHTTPRequestHandler):
    """HTTP around `ServedSolver.answer`; kept alive, as clients ask thousands of times."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # a request that names none is answered with a head, too
    server: SolverServer
    raw_requestline: bytes

    def handle_one_request(self) -> None:
        """Wait for a request, but not for long, and answer it."""
        self.server.expect(self.connection, _PATIENCE)
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Whether the head of a request will do; otherwise the client has been told why not."""
        if not self.raw_requestline.strip():
            self.send_error(HTTPStatus.BAD_REQUEST, "expected a request, got an empty line")
            return False
        return super().parse_request() and self._accepted()

    def handle_expect_100(self) -> bool:
        """Whether the client shall send the body that it announces."""
        return self._accepted() and super().handle_expect_100()

    def _accepted(self) -> bool:
        try:
            self._check_sender()
            self._check_length()
        except _RefusedError as error:
            self.send_error(*error.args)
            return False
        return True

    def _check_sender(self) -> None:
        """Refuse a head that is none, and what a web page makes its reader's browser send."""
        hosts, origins = (self.headers.get_all(name, []) for name in ("Host", "Origin"))
        if self.headers.defects:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "a line of the head is no header")
        if len(hosts) != 1 and (hosts or self.request_version > "HTTP/1.0"):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"Host: got {len(hosts)}, expected one")
        if hosts and not self.server.known_as(hosts[0]):
            why = f"Host: got {hosts[0][:80]!r}, expected an address, or the name given by --host"
            raise _RefusedError(HTTPStatus.FORBIDDEN, why)
        if not {*origins} <= {f"http://{host}" for host in hosts}:
            why = f"Origin: got {origins[0][:80]!r}, expected no page of another site"
            raise _RefusedError(HTTPStatus.FORBIDDEN, why)

    def _check_length(self) -> None:
        """Refuse a body that does not say how long it is, or is longer than any state."""
        lengths, most = self.headers.get_all("Content-Length", []), self.server.served.largest_body
        if "Transfer-Encoding" in self.headers:
            why = "Transfer-Encoding: expected a Content-Length instead"
            raise _RefusedError(HTTPStatus.BAD_REQUEST, why)
        if not lengths and self.command == "GET":
            return
        if len(set(lengths)) != 1 or not re.fullmatch("[0-9]+", lengths[0]):
            got = shortened(", ".join(lengths) or "none")
            why = f"Content-Length: got {got}, expected one number of bytes"
            raise _RefusedError(HTTPStatus.BAD_REQUEST, why)
        digits = lengths[0].lstrip("0") or "0"
        if len(digits) > len(str(most)) or int(digits) > most:
            why = f"Content-Length: got {digits[:20]}, expected at most {most} bytes"
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)

    def do_GET(self) -> None:
        """Answer a request, of either method."""
        length = int(self.headers.get("Content-Length", "0"))
        self.server.expect(self.connection, _PATIENCE + length / _SLOWEST)
        body = self.rfile.read(length)
        if len(body) < length:
            ended = self.connection in self.server.waiting  # it went, nobody hung up
            status = HTTPStatus.BAD_REQUEST if ended else HTTPStatus.REQUEST_TIMEOUT
            self.send_error(status, f"the body ended after {len(body):,} of {length:,} bytes")
            return
        self.server.expect(self.connection, None)
        answer = self.server.served.answer(self.path, body)
        self._send(HTTPStatus.BAD_REQUEST if "error" in answer else HTTPStatus.OK, answer)

    do_POST = do_GET  # noqa: N815 - its own name

    def _send(self, status: HTTPStatus, answer: _Answer) -> None:
        text = json.dumps(answer).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(text)}",
            f"Connection: {'close' if self.close_connection else 'keep-alive'}\r\n\r\n",
        )
        self.connection.settimeout(_PATIENCE + len(text) / _SLOWEST)
        # Head and body in one packet: apart, the second waits 40 ms for the first.
        self.connection.sendall("\r\n".join(head).encode() + text)
        self.connection.settimeout(None)

    def send_error(self, code: int, message: str | None = None, *_: object) -> None:
        """Say what is wrong with a request, and end the connection: more may be anything."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._send(status, error_of("InvalidRequest", message or status.phrase))
        # To close now would take the answer back from a client that is still sending.
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(_LINGER)
        end = time.monotonic() + _LINGER
        while time.monotonic() < end and self.rfile.read1(2**16):
            pass

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        """To the log, not to stderr."""
        log.debug("%s %s", self.address_string(), format % args)
