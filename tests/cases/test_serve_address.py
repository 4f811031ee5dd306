"""Where `zopde serve` listens, to whom, and what its client makes of other addresses."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from zopde import InputError, load_solver
from zopde.blackbox.serving import ServedSolver, SolverServer
from zopde.solvers.http import Http
from zopde.studies.classifiers import HttpClassifier

TOYS = Path(__file__).parent.parent / "toy_solver.py"
RIGHT = json.dumps({"name": "forward", "input": [[0.5] * 32, [0.5] * 32]}).encode()


def command_line(*words, limits="true"):
    command = [sys.executable, "-m", "zopde.cli.app", "serve", *words]
    return subprocess.Popen(
        ["bash", "-c", f'{limits}; exec "$@"', "serve", *command],
        stderr=subprocess.PIPE,
        text=True,
    )


def test_idle_connections_and_few_file_handles_starve_nobody():
    server = command_line(f"{TOYS}:NoTwin", "--port", "0", limits="ulimit -n 64")
    idle = []
    try:
        port = int(re.search(r"http://\S+:(\d+)", server.stderr.readline())[1])
        idle += [socket.create_connection(("127.0.0.1", port), 10) for _ in range(120)]
        before = _processor_seconds(server.pid)
        time.sleep(1)
        assert _processor_seconds(server.pid) - before < 0.3, "it waits in a busy loop"
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        client.request("POST", "/Evaluate", RIGHT)
        assert client.getresponse().status == 200
        client.close()
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=20)[1] == "ended; steps answered: 1\n"
    finally:
        server.kill()
        server.communicate()
        for client in idle:
            client.close()


def _processor_seconds(process):
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def test_who_else_may_come_is_said_aloud():
    server = command_line(f"{TOYS}:NoTwin", "--port", "0", "--host", "0.0.0.0")
    try:
        assert "http://0.0.0.0:" in server.stderr.readline()
        assert "no password" in server.stderr.readline()
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("host", ["", " ", "\t"])
def test_an_empty_host_raises(host):
    served = ServedSolver(load_solver(f"{TOYS}:NoTwin", {}), "forward")
    with pytest.raises(InputError, match="expected an address"):
        SolverServer(served, host, 0)


@pytest.mark.parametrize(
    "host", ["no such name", "999.1.1.1", "a" * 300, "é..", "a\0b", "192.0.2.1"]
)
def test_a_host_that_is_not_here_raises(host):
    served = ServedSolver(load_solver(f"{TOYS}:NoTwin", {}), "forward")
    with pytest.raises(InputError, match="this machine"):
        SolverServer(served, host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3", "::1"])
def test_loopback_has_many_names(host):
    solver = load_solver(f"{TOYS}:NoTwin", {})
    with SolverServer(ServedSolver(solver, "forward"), host, 0) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        assert server.loopback
        assert Http(server.url).grid == solver.grid
        server.shutdown()


@pytest.mark.parametrize(
    "url", [7, "", "http://", "http://:4242", "http://host:port", "http://h:99999", "http://[::1"]
)
def test_an_address_that_is_none_raises(url):
    for kind in (Http, HttpClassifier):
        with pytest.raises(InputError, match="http://host:port"):
            kind(url)


ODD = {
    "/Info": [[], {}, {"protocolVersion": 1.0}, {"protocolVersion": 1, "models": 3}],
    "/ModelInfo": [{"support": []}, {"support": None}, {"support": {"Evaluate": True}, "grid": 4}],
}


@pytest.mark.parametrize(("path", "answer"), [(p, a) for p, odd in ODD.items() for a in odd])
def test_a_server_of_another_kind_is_refused(path, answer):
    good = {"/Info": {"protocolVersion": 1.0, "models": ["forward"]}}
    answers = good | {path: answer}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            text = json.dumps(answers[self.path]).encode()
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)

        do_POST = do_GET  # noqa: N815 - its own name

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        with pytest.raises(InputError):
            Http(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
