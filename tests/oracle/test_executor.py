"""Gradients from worker processes: the same bits, whoever answers and whoever dies."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from zopde import (
    ConvCorrector,
    ExecutorOracle,
    InputError,
    Normalised,
    SolverError,
    UnrolledObjective,
    WeightOracle,
    Window,
    WorkerPool,
    cge,
    load_solver,
    rge,
)
from zopde.blackbox import CountedSolver
from zopde.oracle.shipping import Shipment, load

CHUNK = 16


@pytest.fixture(scope="module")
def one():
    with WorkerPool(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def three():
    with WorkerPool(3) as pool:
        yield pool


@pytest.fixture
def pools(one, three):
    return {"one worker": one, "three workers": three}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def case(toy_spec):
    """(network, objective of a solver, window) on the toy's smaller grid, in float32."""
    gen = torch.Generator().manual_seed(0)
    window = Window(
        torch.randn(2, 2, 4, 4, generator=gen),
        torch.randn(2, 3, 2, 4, 4, generator=gen),
        torch.randn(2, 3, 2, 4, 4, generator=gen),
    )
    torch.manual_seed(0)
    network = Normalised(ConvCorrector(4, 2, width=3), torch.ones(2), torch.ones(2))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)

    def objective(kind="NoTwin", **options):
        solver = CountedSolver(load_solver(toy_spec.replace(":Toy", f":{kind}"), options))
        return UnrolledObjective(solver, window, torch.ones(2)), solver

    return network, objective


@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_any_number_of_workers_agrees_bit_for_bit(scheme, case, pools):
    network, objective = case
    loss, counter = objective()
    indices = torch.randperm(sum(p.numel() for p in network.parameters()))[:100]
    serial = cge(WeightOracle(network, loss, CHUNK), indices, 1e-3, scheme)
    expected, counter.steps = counter.steps, 0
    for name, pool in pools.items():
        oracle = ExecutorOracle(network, loss, pool, CHUNK, kept=(counter,))
        found = cge(oracle, indices, 1e-3, scheme)
        assert torch.equal(found.gradient, serial.gradient), name
        assert found.queries == serial.queries
        assert counter.steps == expected == 2 * 2 * found.queries
        counter.steps = 0


@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_directions_agree_bit_for_bit(scheme, case, pools, tmp_path):
    network, objective = case
    loss, counter = objective()

    def ask(oracle):
        return rge(oracle, 40, 1e-3, torch.Generator().manual_seed(0), scheme=scheme)

    serial = ask(WeightOracle(network, loss, CHUNK))
    expected, counter.steps = counter.steps, 0
    for name, pool in pools.items():
        oracle = ExecutorOracle(network, loss, pool, CHUNK, kept=(counter,), folder=tmp_path)
        found = ask(oracle)
        assert torch.equal(found.gradient, serial.gradient), name
        assert torch.equal(found.standard_error, serial.standard_error)
        assert counter.steps == expected
        counter.steps = 0
        (folder,) = tmp_path.iterdir()
        assert len(list(folder.iterdir())) == 2, "directions are deleted"
        del oracle


def test_new_weights_are_a_new_version(case, three):
    network, objective = case
    loss, _ = objective()
    oracle, serial = ExecutorOracle(network, loss, three, CHUNK), WeightOracle(network, loss, CHUNK)
    some = torch.arange(40)
    for _ in range(3):
        assert torch.equal(oracle.coordinates(some, 1e-3), serial.coordinates(some, 1e-3))
        assert torch.equal(oracle.base(), serial.base())
        with torch.no_grad():
            next(network.parameters()).mul_(1.1)


def test_worker_killed_in_mid_gradient_agrees(case, three, tmp_path):
    network, objective = case
    expected = cge(WeightOracle(network, objective()[0], CHUNK)).gradient
    mortal, counter = objective("Mortal", marks=str(tmp_path))
    oracle = ExecutorOracle(network, mortal, three, CHUNK, kept=(counter,))
    found = cge(oracle)
    assert torch.equal(found.gradient, expected)
    assert len(list(tmp_path.iterdir())) >= 1, "nobody died"
    assert counter.steps == 2 * 2 * found.queries, "what a dead worker did counts once"


def test_workers_that_always_die_raise(case, tmp_path):
    network, objective = case
    mortal, _ = objective("Mortal", marks=str(tmp_path), lives=99, after=1)
    with WorkerPool(1, patience=2) as pool, pytest.raises(SolverError, match=r"2 .*SIGKILL"):
        cge(ExecutorOracle(network, mortal, pool, CHUNK))


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("solver", SolverError, "^pressure did not converge$"),
        ("input", InputError, "^viscosity: got 3.0, expected less; try 1$"),
        ("odd", RuntimeError, "OddError in a worker: 1 and 2"),
        ("memory", torch.OutOfMemoryError, "no memory"),
    ],
)
def test_error_in_a_worker_arrives_raises(how, kind, words, case, one):
    network, objective = case
    with pytest.raises(kind, match=words):
        ExecutorOracle(network, objective("Failing", how=how)[0], one).base()


def test_what_does_not_pickle_raises(case, one):
    network, _ = case
    with pytest.raises(InputError, match=r"what workers need: got .*lambda.* that pickle"):
        ExecutorOracle(network, lambda f, p: torch.zeros(p), one).base()


@dataclass
class Mean:
    """A plain objective, for layers of every kind."""

    x: Tensor

    def __call__(self, network, num_probes):
        y = network(self.x.repeat(num_probes, *[1] * (self.x.dim() - 1)))
        return y.view(num_probes, -1).square().mean(dim=1)


class Gain(nn.Module):
    """A parameter that no layer owns: probed one at a time."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((3, 1), 1.3))

    def forward(self, x):
        return x * self.gain


LAYERS = {
    "linear, gain": nn.Sequential(nn.Flatten(2), nn.Linear(25, 3), Gain(), nn.Linear(3, 2)),
    "conv, batch norm": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh()),
    "conv, group norm": nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Tanh()),
    "gain alone": nn.Sequential(nn.Flatten(2), Gain()),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_kind_of_layer_agrees_and_restores(name, dtype, gen):
    network = LAYERS[name].to(dtype)
    loss = Mean(torch.randn(2, 3, 5, 5, generator=gen).to(dtype))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    expected = cge(WeightOracle(network, loss, 7))
    with ThreadPoolExecutor(2) as threads:
        oracle = ExecutorOracle(network, loss, threads, 7)
        found = cge(oracle)
    assert torch.equal(found.gradient, expected.gradient)
    assert found.gradient.dtype == found.loss.dtype == dtype
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    oracle.set_gradient(found.gradient)
    grads = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert torch.equal(grads, expected.gradient)


def test_a_step_for_every_probe_agrees(gen):
    network, loss = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), Mean(torch.randn(2, 4))
    indices = torch.randperm(15, generator=gen)
    steps = torch.linspace(1e-3, 1e-2, 15, dtype=torch.float64)
    with ThreadPoolExecutor(2) as threads:
        found = ExecutorOracle(network, loss, threads, 4).coordinates(indices, steps)
    assert torch.equal(found, WeightOracle(network, loss, 4).coordinates(indices, steps))


def test_no_coordinates_asked():
    with ThreadPoolExecutor(1) as threads:
        oracle = ExecutorOracle(nn.Linear(4, 3), Mean(torch.ones(2, 4)), threads)
        assert cge(oracle, torch.empty(0, dtype=torch.int64)).gradient.count_nonzero() == 0


def test_dask_agrees(case, monkeypatch):
    distributed = pytest.importorskip("distributed")
    network, objective = case
    loss, counter = objective()
    expected = cge(WeightOracle(network, loss, CHUNK)).gradient
    steps, counter.steps = counter.steps, 0
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**how) as cluster, distributed.Client(cluster) as client:
        oracle = ExecutorOracle(network, loss, client.get_executor(), CHUNK, kept=(counter,))
        assert torch.equal(cge(oracle).gradient, expected)
    assert counter.steps == steps


def test_versions_share_what_is_kept_and_files_go(tmp_path):
    kept, other = {"a": [1, 2]}, [7]
    shipment = Shipment((kept,), tmp_path)
    first = shipment.publish((kept, other))
    (made, things), again = load(first, list), load(shipment.publish((kept, other)), list)
    assert again[0] is made
    assert made[0] is things[0] == kept
    other.append(8)
    second = shipment.publish((kept, other))
    assert second.version != first.version
    assert load(second, list)[0][0] is things[0]
    assert load(first, list)[0] is made, "a version once loaded needs its file no more"
    (folder,) = tmp_path.iterdir()
    assert {p.name for p in folder.iterdir()} == {second.kept, second.version}
    with pytest.raises(InputError, match="No such file"):
        load(replace(first, version="gone"), list)
    del shipment
    assert not folder.exists()
