"""A solver behind a network address: real servers, and ones that misbehave."""

import json
import pickle
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pytest
import torch

from zopde import Grid, InputError, SolverError, load_solver
from zopde.blackbox.serving import ServedSolver, SolverServer

TOYS = Path(__file__).parent.parent / "toy_solver.py"
GRID = Grid(shape=(2, 3), extent=(1.0, 1.0), dt=0.1, channels=("a",))


@contextmanager
def running(server):
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Doubling(BaseHTTPRequestHandler):
    """A server by the book, but for what `how` says of inputs that start with 13."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    how = ""
    dropped = 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send({"protocolVersion": 1.0, "models": ["forward", "other"]})

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/ModelInfo":
            self.send({"support": {"Evaluate": given["name"] == "forward"}})
        elif self.path.endswith("Sizes"):
            self.send({f"{side}Sizes": [6] for side in ("input", "output")})
        else:
            self.evaluate(given)

    def evaluate(self, given):
        (values,) = given["input"]
        answer = {"output": [[given["config"].get("factor", 2.0) * value for value in values]]}
        if values[0] != 13.0:
            self.send(answer)
        elif self.how == "drop" and type(self).dropped < 2:
            type(self).dropped += 1
            self.close_connection = True
        elif self.how == "hang":
            time.sleep(0.6)
            self.close_connection = True
        elif self.how == "error":
            self.send({"error": {"type": "Diverged", "message": "after 3 iterations"}}, 500)
        elif self.how == "page":
            self.send("<html>502 Bad Gateway</html>", 502)
        elif self.how == "nan":
            self.send({"output": [[float("nan"), float("inf"), 1.0, 2.0, 3.0, 4.0]]})
        elif self.how == "short":
            self.send({"output": [[1.0, 2.0]]})
        elif self.how == "text":
            self.send({"output": [["a"] * 6]})
        else:
            self.send(answer)

    def send(self, content, status=200):
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def doubling(misbehaviour=""):
    class Handler(Doubling):
        how = misbehaviour

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def connected(url, **options):
    return load_solver("http", {"url": url, "grid": GRID, **options})


def states(batch=4):
    return torch.arange(batch * 6.0).view(batch, 1, 2, 3) / 7


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_server_steps_every_state_exact(concurrency):
    with doubling() as url:
        solver = connected(url, concurrency=concurrency)
        for one in (solver, pickle.loads(pickle.dumps(solver))):
            assert one.step(states()).equal(2 * states())
        tripled = connected(url, config={"factor": 3.0})
        assert tripled.step(states()).equal((3 * states().double()).float())


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("hang", "no answer from"),
        ("error", "the server says Diverged: after 3 iterations"),
        ("page", "status 502"),
        ("nan", "2 of 6 values are NaN"),
        ("short", "shape (1, 2), expected (1, 6)"),
        ("text", "no list of numbers"),
    ],
)
def test_a_failed_state_is_told_apart_raises(how, reason, concurrency):
    given = states()
    given[1, 0, 0, 0] = 13.0
    with doubling(how) as url:
        solver = connected(url, timeout=0.3, concurrency=concurrency)
        with pytest.raises(SolverError, match="1 of 4 states failed; state 1") as caught:
            solver.step(given)
        (failure,) = caught.value.failures
        assert failure.row == 1
        assert reason in failure.reason
        good = torch.tensor([0, 2, 3])
        assert caught.value.answers[good].equal(2 * given[good])
        assert solver.step(states()).equal(2 * states())


def test_a_broken_connection_is_made_anew_restores():
    given = torch.full((2, 1, 2, 3), 13.0)
    with doubling("drop") as url:
        with pytest.raises(SolverError, match="no connection"):
            connected(url, retries=0).step(given[:1])
        assert connected(url).step(given).equal(2 * given)


def test_a_server_that_went_away_raises():
    with doubling() as url:
        solver = pickle.loads(pickle.dumps(connected(url, retries=1)))  # not connected yet
    with pytest.raises(SolverError, match="2 of 2 states failed; state 0: no connection"):
        solver.step(states(2))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "forwrd"}, "did you mean 'forward'"),
        ({"name": "other"}, "does not support Evaluate"),
        ({"grid": None}, "this server tells none"),
        ({"grid": GRID.with_shape((3, 3))}, r"input sizes \[9\], expected the server's \[6\]"),
        ({"retries": -1}, "retries"),
        ({"concurrency": 0}, "concurrency"),
        ({"url": "localhost:4242"}, "http://host:port"),
        ({"url": "http://127.0.0.1:9", "retries": 0}, "start it first"),
    ],
)
def test_wrong_settings_raises(options, match):
    with doubling() as url, pytest.raises(InputError, match=match):
        connected(**{"url": url, **options})


def test_a_served_solver_tells_its_grid_and_its_numbers_agrees(gen):
    solver = load_solver(f"{TOYS}:NoTwin")
    with running(SolverServer(ServedSolver(solver, "forward"), port=0)) as url:
        remote = load_solver("http", {"url": url})
        assert remote.grid == solver.grid
        state, forcing = torch.randn(2, 3, 2, 4, 4, generator=gen, dtype=torch.float64)
        assert remote.step(state, forcing).equal(solver.step(state, forcing))


MODEL = """
import sys, umbridge

class Model(umbridge.Model):
    def get_input_sizes(self, config):
        return [6]
    def get_output_sizes(self, config):
        return [6]
    def __call__(self, parameters, config):
        if parameters[0][0] == 13.0:
            raise ValueError("diverged")
        return [[config.get("factor", 2.0) * value for value in parameters[0]]]
    def supports_evaluate(self):
        return True

umbridge.serve_models([Model("forward")], int(sys.argv[1]))
"""


@pytest.mark.skipif(find_spec("umbridge") is None, reason="the package umbridge is not here")
def test_the_real_server_steps_every_state_exact():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", MODEL, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        solver = connected(f"http://127.0.0.1:{port}", retries=8)
        assert solver.step(states()).equal(2 * states())
        given = states()
        given[2].fill_(13.0)
        with pytest.raises(SolverError, match=r"state 2: .*status 500"):
            solver.step(given)
    finally:
        server.kill()
        server.wait()
