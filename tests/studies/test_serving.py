"""A solver as a UM-Bridge server, asked by the package of that name and by hand."""

import http.client
import json
from pathlib import Path
from threading import Thread

import pytest
import torch

from zopde import InputError, load_solver
from zopde.blackbox.serving import ServedSolver, SolverServer

TOYS = Path(__file__).parent.parent / "toy_solver.py"


@pytest.fixture
def serve():
    servers = []

    def start(kind, **options):
        solver = load_solver(f"{TOYS}:{kind}", options)
        server = SolverServer(ServedSolver(solver, "forward"), port=0)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return solver, server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server, path, content, method="POST"):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    connection.request(method, path, body)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def vectors(*tensors):
    return [tensor.flatten().tolist() for tensor in tensors]


def test_the_real_client_gets_the_solvers_numbers_exact(serve, gen):
    umbridge = pytest.importorskip("umbridge")
    solver, server = serve("NoTwin")
    state, forcing = torch.randn(2, 1, 2, 4, 4, generator=gen, dtype=torch.float64)
    assert umbridge.supported_models(server.url) == ["forward"]
    model = umbridge.HTTPModel(server.url, "forward")
    assert model.supports_evaluate()
    assert not model.supports_gradient()
    assert (model.get_input_sizes(), model.get_output_sizes()) == ([32, 32], [32])
    for _ in range(3):
        (answer,) = model(vectors(state, forcing))
        assert answer == vectors(solver.step(state, forcing))[0]
    assert server.served.evaluations == 3
    with pytest.raises(Exception, match=r"InvalidInput: input: got shape \(3,\), expected 32"):
        model([[1.0, 2.0, 3.0], forcing.flatten().tolist()])


@pytest.mark.parametrize(
    ("path", "content", "kind", "said"),
    [
        ("/Evaluate", b"{not json", "InvalidInput", "request"),
        ("/Evaluate", b"[1, 2]", "InvalidInput", "JSON object"),
        ("/Evaluate", {"name": "backward"}, "ModelNotFound", "'backward', expected 'forward'"),
        ("/Evaluate", {"name": "forward"}, "InvalidInput", "2 lists"),
        ("/Evaluate", {"name": "forward", "input": [[1.0]]}, "InvalidInput", "2 lists"),
        ("/Evaluate", {"name": "forward", "input": [["a"], [1.0]]}, "InvalidInput", "input"),
        ("/Evaluate", {"name": "forward", "input": [None, [1.0]]}, "InvalidInput", "input"),
        ("/Evaluate", {"name": "forward", "input": [1.0, 2.0]}, "InvalidInput", "shape ()"),
        ("/Gradient", {"name": "forward"}, "UnsupportedFeature", "/Evaluate"),
    ],
)
def test_bad_requests_get_an_error_raises(serve, path, content, kind, said):
    _, server = serve("NoTwin")
    error = ask(server, path, content)["error"]
    assert error["type"] == kind
    assert said in error["message"]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("Failing", {"how": "solver"}, "pressure did not converge"),
        ("Failing", {"how": "odd"}, "step raised OddError"),
        ("Exploding", {}, "not finite"),
    ],
)
def test_a_failed_step_gets_an_error_raises(serve, kind, options, said):
    _, server = serve(kind, **options)
    given = {"name": "forward", "input": [[1e308] * 32, [0.0] * 32]}
    error = ask(server, "/Evaluate", given)["error"]
    assert error["type"] == "SolverFailed"
    assert said in error["message"]


def test_the_grid_comes_along(serve):
    solver, server = serve("NoTwin")
    assert ask(server, "/Info", {}, "GET") == {"protocolVersion": 1.0, "models": ["forward"]}
    told = ask(server, "/ModelInfo", {"name": "forward"})
    assert told["support"]["Evaluate"] is True
    assert tuple(told["grid"]["shape"]) == solver.grid.shape


def test_a_taken_port_raises(serve):
    _, server = serve("NoTwin")
    with pytest.raises(InputError, match="a free port"):
        SolverServer(server.served, port=server.server_address[1])
