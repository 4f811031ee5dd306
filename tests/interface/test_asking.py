"""Who makes the solver calls of a product decides nothing about its bits, nor about the count."""

from concurrent.futures import Executor, Future

import pytest
import torch

from zopde import (
    ColouredPullback,
    CorrectedPullback,
    DensePullback,
    RandomPullback,
    RegressedPullback,
    SolverError,
    WorkerPool,
    load_solver,
)
from zopde.blackbox import BlackBox, CountedSolver
from zopde.contracts import counted_apart
from zopde.interface import Probing, Step
from zopde.interface.vjp import as_they_come, responses
from zopde.oracle.executor import Sharing

STATES = 10  # of a call: 64 entries in calls of 10, and 4


@pytest.fixture
def small(toy_spec):
    return load_solver(toy_spec.replace(":Toy", ":NoTwin"))


def step_of(solver, variable="state"):
    gen = torch.Generator().manual_seed(5)
    state, forcing = torch.randn(2, 2, 2, 4, 4, generator=gen)
    return Step(solver, state, forcing, solver.step(state, forcing), variable)


def products(solver, executor):
    """Of every pullback that makes calls, of the state and of the forcing; and the counts."""
    draw = torch.Generator().manual_seed(1)
    settings = {"states": STATES, "scheme": "central", "executor": executor}
    pullbacks = [
        DensePullback(**settings),
        ColouredPullback(solver.grid, (1, 1), check_every=0, **settings),
        RandomPullback(draw, 7, **settings),
        CorrectedPullback(draw, 25, **settings),
        RegressedPullback(solver.grid, (1, 1), **settings),
    ]
    found, counts = [], []
    for pullback in pullbacks:
        for variable in ("state", "forcing"):
            counter = CountedSolver(BlackBox(solver))
            step = step_of(counter, variable)
            found.append(pullback(step, step.stepped.cos()))
            counts.append(counter.steps)
    return found, counts


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as pool:
        yield pool


def assert_same(solver, executor):
    expected, counts = products(solver, None)
    found, counted = products(solver, executor)
    assert all(map(torch.equal, found, expected))
    assert all(product.abs().max() > 0 for product in found)
    assert counted == counts
    assert counts[:2] == [2 + 2 * 2 * 32] * 2


def test_products_by_workers_are_the_same_exact(small, pool):
    assert_same(small, pool)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_products_by_any_number_of_workers_are_the_same_exact(small, workers):
    with WorkerPool(workers) as other:
        assert_same(small, other)


def calls_of(step):
    gen = torch.Generator().manual_seed(2)
    sizes = [3, 1, 4]
    directions = torch.randn(sum(sizes), 2, 4, 4, generator=gen)
    rows = torch.arange(len(directions)) % 2
    return list(zip(rows.split(sizes), directions.split(sizes), strict=True))


def test_responses_come_in_the_order_of_the_calls_exact(small, pool):
    step = step_of(small)
    here = list(responses(step, calls_of(step), Probing()))
    there = list(responses(step, calls_of(step), Probing(executor=pool)))
    assert [len(found) for found in here] == [3, 1, 4]
    assert all(map(torch.equal, here, there))
    moved = small.step(step.state[[0, 1, 0]] + 1e-3 * calls_of(step)[0][1], step.forcing[[0, 1, 0]])
    assert torch.equal(here[0], (moved - step.stepped[[0, 1, 0]]) / 1e-3)


def test_a_sparse_direction_is_the_dense_one_exact(small, pool):
    step, (rows, directions) = step_of(small), calls_of(step_of(small))[0]
    directions = directions * (directions > 1)
    flat = [(rows, directions.flatten(1).to_sparse())]
    dense = next(responses(step, [(rows, directions)], Probing()))
    for executor in (None, pool):
        assert torch.equal(next(responses(step, flat, Probing(executor=executor))), dense)


def test_what_came_early_waits_for_its_turn_exact(small, monkeypatch):
    step = step_of(small)
    expected = list(responses(step, calls_of(step), Probing()))

    def backwards(*given):
        yield from reversed(list(as_they_come(*given)))

    monkeypatch.setattr("zopde.interface.vjp.as_they_come", backwards)
    assert all(map(torch.equal, responses(step, calls_of(step), Probing()), expected))


def test_comparisons_by_workers_are_counted_apart(small, pool):
    counter = CountedSolver(BlackBox(small))
    step = step_of(counter)
    with counted_apart():
        assert len(list(responses(step, calls_of(step), Probing(executor=pool)))) == 3
    assert (counter.counts()["steps"], counter.counts()["checking"]) == (2, 8)


def test_a_worker_that_dies_is_replaced_exact(toy_spec, small, tmp_path):
    given = {"marks": str(tmp_path), "after": 4}
    mortal = CountedSolver(load_solver(toy_spec.replace(":Toy", ":Mortal"), given))
    plain, step = step_of(small), step_of(mortal)
    with WorkerPool(1) as own:
        found = DensePullback(states=STATES, executor=own)(step, step.stepped)
    assert torch.equal(found, DensePullback(states=STATES)(plain, plain.stepped))
    assert len(list(tmp_path.iterdir())) == 1
    assert mortal.steps == 2 + 64


def test_a_solver_that_fails_in_a_worker_raises(toy_spec, small, pool):
    failing = load_solver(toy_spec.replace(":Toy", ":Failing"), {"how": "solver"})
    plain = step_of(small)
    step = Step(failing, plain.state, plain.forcing, plain.stepped)
    with pytest.raises(SolverError, match="pressure did not converge"):
        DensePullback(executor=pool)(step, step.stepped)


class Here(Executor):
    """Does the work at once, and notes what lies in a folder then."""

    def __init__(self, folder):
        self.folder, self.found = folder, []

    def submit(self, fn, /, *args, **kwargs):
        self.found.append([path.name for path in self.folder.rglob("*") if path.is_file()])
        done = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def test_workers_find_step_and_solver_once_in_the_shared_folder_exact(small, tmp_path):
    step, here = step_of(small), Here(tmp_path)
    found = DensePullback(states=STATES, executor=Sharing(here, tmp_path))(step, step.stepped)
    assert torch.equal(found, DensePullback(states=STATES)(step, step.stepped))
    assert len(here.found) == 7
    assert all(sorted(names) == sorted(here.found[0]) for names in here.found)
    assert len(here.found[0]) == 2
    assert not list(tmp_path.iterdir()), "gone with the product"
