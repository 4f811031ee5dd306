"""`zopde serve` among many clients, idle ones, slow ones, confused ones and hostile ones."""

import http.client
import json
import socket
import time
from pathlib import Path
from threading import Thread

import pytest
import torch

from zopde import load_solver
from zopde.blackbox import serving
from zopde.blackbox.serving import ServedSolver, SolverServer
from zopde.solvers.http import Http

TOYS = Path(__file__).parent.parent / "toy_solver.py"
NUMBERS = [0.125 * i for i in range(32)]
RIGHT = json.dumps({"name": "forward", "input": [NUMBERS, NUMBERS]}).encode()


@pytest.fixture
def start():
    """Serves a toy on a free port until the test ends."""
    servers = []

    def served(kind="NoTwin", host="127.0.0.1"):
        solver = load_solver(f"{TOYS}:{kind}", {})
        server = SolverServer(ServedSolver(solver, "forward"), host, 0)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return solver, server

    yield served
    for server in servers:
        server.shutdown()
        server.server_close()


def connected(server):
    return socket.create_connection(server.server_address[:2], timeout=10)


def read_answer(client):
    """(status, JSON, whether the connection stays) of one answer."""
    response = http.client.HTTPResponse(client)
    response.begin()
    content = json.loads(response.read())
    return response.status, content, not response.will_close


def head(body=b"", *lines, path="/Evaluate", host="localhost", length=True, version="1.1"):
    first = [f"POST {path} HTTP/{version}", f"Host: {host}"]
    told = [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join([*first, *told, *lines, "", ""]).encode("latin-1") + body


def answer_to(server, text):
    with connected(server) as client:
        client.sendall(text)
        return read_answer(client)


def right_answer(solver):
    state = torch.tensor(NUMBERS, dtype=torch.float64).view(1, *solver.grid.state_shape)
    return solver.step(state, state.clone()).flatten().tolist()


def still_answers(solver, server):
    status, content, stays = answer_to(server, head(RIGHT))
    return (status, content["output"][0], stays) == (200, right_answer(solver), True)


def test_a_thousand_states_by_two_hundred_at_once_lose_none(start, gen):
    """Without a single new attempt; each answer is that of its own state."""
    solver, server = start()
    remote = Http(server.url, concurrency=200, retries=0)
    for _ in range(5):
        state, forcing = torch.randn(2, 200, 2, 4, 4, generator=gen, dtype=torch.float64)
        assert remote.step(state, forcing).equal(solver.step(state, forcing))
    assert server.served.evaluations == 1000


DEEP = b"[" * 100_000 + b"]" * 100_000
DEEPER = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
OTHER_ROOM = b'{"name": "forward", "input": '


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "name"),
        (b"\x00\xff\xfe", "request"),
        (b"{", "request"),
        (b"nonsense", "request"),
        (b"[1, 2]", "JSON object"),
        (b'"forward"', "JSON object"),
        (b"1e999", "JSON object"),
        (b"9" * 5000, "request"),
        (b'{"name": "f\xfcr"}', "request"),
        ('{"name": "forward", "input": 1}'.encode("utf-16"), "2 lists"),
        (b'{"name": ["forward"]}', "name"),
        (b'{"name": "\\ud800"}', "name"),
        (b'{"name": "' + b"x" * 60_000 + b'"}', "name"),
        (OTHER_ROOM + b'"text"}', "2 lists"),
        (OTHER_ROOM + b"{}}", "2 lists"),
        (OTHER_ROOM + b"[[], []]}", "shape (0,), expected 32"),
        (OTHER_ROOM + b"[[[1]], [[1]]]}", "shape (1, 1)"),
        (OTHER_ROOM + b"[[[1], [1, 2]], [1]]}", "no list of numbers"),
        (OTHER_ROOM + b"[[{}], [1]]}", "no list of numbers"),
        (
            OTHER_ROOM + b"[" + b",".join([json.dumps([*NUMBERS[1:], None]).encode()] * 2) + b"]}",
            "no",
        ),
        (
            OTHER_ROOM + b"[" + b",".join([json.dumps([*NUMBERS[1:], True]).encode()] * 2) + b"]}",
            "no",
        ),
        (
            OTHER_ROOM + b"[" + b",".join([json.dumps([*NUMBERS[1:], "1"]).encode()] * 2) + b"]}",
            "no",
        ),
        (RIGHT.replace(b"0.125", b"NaN", 1), "finite"),
        (RIGHT.replace(b"0.125", b"-Infinity", 1), "finite"),
        (RIGHT.replace(b"0.125", b"1e400", 1), "finite"),
        (RIGHT.replace(b"0.125", b"1" + b"0" * 400, 1), "float64"),
        (RIGHT.replace(b"0.125", b"1" + b"0" * 5000, 1), "request"),
        (OTHER_ROOM + b"[" * 400 + b"1" + b"]" * 400 + b"}", "2 lists"),
        (OTHER_ROOM + b"[" + b",".join([b"[" * 400 + b"1" + b"]" * 400] * 2) + b"]}", "input"),
        (RIGHT[:-1] + b', "config": {"level": 1}}', "no options"),
    ],
    ids=range(30),
)
def test_a_malformed_body_is_answered_in_one_line(start, body, said):
    solver, server = start()
    status, content, stays = answer_to(server, head(body))
    assert (status, stays) == (400, True)
    assert said in content["error"]["message"]
    assert len(content["error"]["message"]) < 300
    assert "\n" not in content["error"]["message"]
    assert still_answers(solver, server)


@pytest.mark.parametrize("body", [DEEP, DEEPER, OTHER_ROOM + DEEP + b"}"])
def test_deep_nests_are_answered(start, monkeypatch, body):
    monkeypatch.setattr(serving, "_ROOM", 2**21)  # a grid for which such a body is not too large
    solver, server = start()
    status, content, _ = answer_to(server, head(body))
    assert status == 400
    assert "recursion" in content["error"]["message"]
    assert still_answers(solver, server)


@pytest.mark.parametrize(
    ("lines", "status", "said"),
    [
        ([], 400, "Content-Length"),
        (["Content-Length: "], 400, "Content-Length"),
        (["Content-Length: -1"], 400, "Content-Length"),
        (["Content-Length: +9"], 400, "Content-Length"),
        (["Content-Length: 1_0"], 400, "Content-Length"),
        (["Content-Length: 0x10"], 400, "Content-Length"),
        (["Content-Length: \xb2"], 400, "Content-Length"),
        (["Content-Length: many"], 400, "Content-Length"),
        (["Content-Length: 9, 10"], 400, "Content-Length"),
        (["Content-Length: 9", "Content-Length: 10"], 400, "Content-Length"),
        (["Content-Length: 1000000000"], 413, "at most"),
        (["Content-Length: " + "9" * 5000], 413, "at most"),
        (["Content-Length: 1000000000", "Expect: 100-continue"], 413, "at most"),
        (["Transfer-Encoding: chunked"], 400, "Transfer-Encoding"),
        (["Transfer-Encoding: chunked", "Content-Length: 9"], 400, "Transfer-Encoding"),
        (["Transfer-Encoding: gzip, chunked"], 400, "Transfer-Encoding"),
        (["Content-Length : 9"], 400, "no header"),
        (["no colon", "Content-Length: 9"], 400, "no header"),
        (["Content-Length: 9", "Host: localhost"], 400, "Host"),
        ([f"X-{i}: 1" for i in range(200)], 431, "headers"),
        (["X: " + "1" * 70_000], 431, "long"),
    ],
    ids=range(21),
)
def test_a_malformed_head_is_answered_before_the_body_is_read(start, lines, status, said):
    """The body never comes, so who waited for it would wait for long."""
    solver, server = start()
    got, content, stays = answer_to(server, head(b"", *lines, length=False))
    assert (got, stays) == (status, False)
    assert said in content["error"]["message"]
    assert len(content["error"]["message"]) < 300
    assert still_answers(solver, server)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),  # a client that speaks TLS
        (b"GET\r\n", 400),
        (b"POST /Evaluate\r\n", 400),
        (b"GET /Info HTTP/one\r\n", 400),
        (b"GET /Info HTTP/2.0\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"DELETE /Info HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 501),
        (b"GET /Info HTTP/1.1\r\n\r\n", 400),
        (b"GET /Info\r\n\r\n", 200),
        (b"GET /Info HTTP/0.9\r\n\r\n", 200),
        (b"GET /Info HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_a_malformed_request_is_answered(start, text, status):
    solver, server = start()
    got, _, stays = answer_to(server, text)
    assert (got, stays) == (status, False)
    assert still_answers(solver, server)


def test_a_body_that_is_too_large_is_refused_while_it_is_sent(start):
    """A client that sends everything before it reads must still get to see the reason."""
    _, server = start()
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    connection.request("POST", "/Evaluate", b" " * 20_000_000)
    response = connection.getresponse()
    assert response.status == 413
    assert "at most" in json.loads(response.read())["error"]["message"]
    connection.close()


def test_a_state_written_with_many_digits_is_not_too_large(start):
    solver, server = start()
    numbers = ",\n ".join(f"{number:.17e}" for number in NUMBERS)
    body = f'{{"name": "forward", "input": [[{numbers}], [{numbers}]]}}'.encode()
    _, content, _ = answer_to(server, head(body))
    assert content["output"][0] == right_answer(solver)


def test_pipelined_requests_are_answered_in_order(start):
    solver, server = start()
    with connected(server) as client:
        client.sendall(head(RIGHT) + head(b"{") + head(RIGHT))
        stream = client.makefile("rb")
        answers = []
        for _ in range(3):
            status = int(stream.readline().split()[1])
            headers = http.client.parse_headers(stream)
            answers.append((status, json.loads(stream.read(int(headers["Content-Length"])))))
    assert [status for status, _ in answers] == [200, 400, 200]
    assert answers[0][1] == answers[2][1] == {"output": [right_answer(solver)]}


def test_a_client_of_http_1_0_may_stay(start):
    solver, server = start()
    with connected(server) as client:
        for _ in range(2):
            client.sendall(head(RIGHT, "Connection: keep-alive", version="1.0"))
            status, content, _ = read_answer(client)
            assert (status, content["output"][0]) == (200, right_answer(solver))
        client.sendall(head(RIGHT, version="1.0"))
        assert read_answer(client)[0] == 200
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("lines", "host", "status"),
    [
        ([], "localhost:9999", 200),  # through a tunnel
        ([], "LOCALHOST.", 200),
        ([], "127.0.0.1:4242", 200),
        ([], "[::1]:4242", 200),
        ([], socket.gethostname(), 200),
        ([], "attacker.example", 403),
        ([], "attacker.example:4242", 403),
        ([], "localhost.attacker.example", 403),
        ([], "localhost@attacker.example", 403),
        ([], "attacker.example@localhost", 403),
        ([], "127.0.0.1.attacker.example", 403),
        ([], "[::1", 403),
        ([], "", 403),
        (["Origin: http://attacker.example"], "localhost", 403),
        (["Origin: null"], "localhost", 403),
        (["Origin: http://localhost:8000"], "localhost:4242", 403),
        (["Origin: http://localhost", "Origin: http://attacker.example"], "localhost", 403),
        (["Origin: http://localhost:4242"], "localhost:4242", 200),
    ],
)
def test_a_browser_is_no_way_in(start, lines, host, status):
    """Neither a page whose name leads to this machine, nor a form of another site."""
    _, server = start()
    got, content, _ = answer_to(server, head(RIGHT, *lines, host=host))
    assert got == status
    assert (status == 200) == ("output" in content)
    assert server.served.evaluations == (status == 200)


@pytest.mark.parametrize(
    "sent", [b"", b"POST /Eval", head(RIGHT)[:60], head(RIGHT)[:-9]], ids=range(4)
)
def test_who_stops_speaking_is_dropped(start, monkeypatch, sent):
    """Before a request, in a line, in a head, in a body; what came is answered."""
    monkeypatch.setattr(serving, "_PATIENCE", 0.3)
    solver, server = start()
    with connected(server) as client:
        client.sendall(sent)
        began = time.monotonic()
        answer = client.recv(4096)
        assert 0.2 < time.monotonic() - began < 5
        assert sent[-20:] != head(RIGHT)[-29:-9] or b" 408 " in answer
        assert bool(sent) == bool(answer)
    assert still_answers(solver, server)


def test_who_speaks_slowly_is_dropped(start, monkeypatch):
    """A byte now and then resets no clock."""
    monkeypatch.setattr(serving, "_PATIENCE", 0.5)
    solver, server = start()
    with connected(server) as client, pytest.raises(OSError, match=r"reset|[Bb]roken"):
        _drip(client, head(RIGHT), 10)
    assert still_answers(solver, server)


def _drip(client, text, seconds):
    end = time.monotonic() + seconds
    for byte in text:
        client.sendall(bytes([byte]))
        time.sleep(0.02)
        assert time.monotonic() < end, "nobody hung up"


def test_a_kept_connection_that_was_dropped_costs_no_attempt(start, monkeypatch, gen):
    """A training may pause for longer than the server waits."""
    monkeypatch.setattr(serving, "_PATIENCE", 0.2)
    solver, server = start()
    remote = Http(server.url, retries=0)
    state, forcing = torch.randn(2, 1, 2, 4, 4, generator=gen, dtype=torch.float64)
    for _ in range(3):
        assert remote.step(state, forcing).equal(solver.step(state, forcing))
        time.sleep(0.5)


def test_a_step_may_take_longer_than_a_client(start, monkeypatch, gen):
    monkeypatch.setattr(serving, "_PATIENCE", 0.1)
    solver, server = start()
    exact = server.served._solver.step

    def slow(*fields):
        time.sleep(0.5)
        return exact(*fields)

    monkeypatch.setattr(server.served, "_solver", type("", (), {"step": staticmethod(slow)}))
    state, forcing = torch.randn(2, 1, 2, 4, 4, generator=gen, dtype=torch.float64)
    body = {"name": "forward", "input": [state.flatten().tolist(), forcing.flatten().tolist()]}
    _, content, _ = answer_to(server, head(json.dumps(body).encode()))
    assert content["output"][0] == solver.step(state, forcing).flatten().tolist()


def test_whatever_a_solver_raises_is_answered(start, monkeypatch):
    _, server = start()

    def leave(*fields):
        raise SystemExit(3)

    monkeypatch.setattr(server.served, "_solver", type("", (), {"step": staticmethod(leave)}))
    for _ in range(2):
        status, content, _ = answer_to(server, head(RIGHT))
        assert status == 400
        assert "3" in content["error"]["message"]


def test_many_connections_wait_for_a_place(start, monkeypatch, gen):
    """Eight places, forty clients: those that idle between two states make room."""
    monkeypatch.setattr(serving, "_MOST", 8)
    monkeypatch.setattr(serving, "_GRACE", 0.02)
    solver, server = start()
    remote = Http(server.url, concurrency=40, retries=5)
    state, forcing = torch.randn(2, 120, 2, 4, 4, generator=gen, dtype=torch.float64)
    assert remote.step(state, forcing).equal(solver.step(state, forcing))
