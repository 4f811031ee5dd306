"""Jacobians on disk: found again, not asked twice, and nobody else's."""

import os

import pytest
import torch

from zopde import InputError, SolverError, WorkerPool, load_solver
from zopde.blackbox import BlackBox, CountedSolver
from zopde.interface import JacobianStore, Probing, Step

PROBING = Probing(1e-3, states=10)  # 32 entries in calls of 10, 10, 10 and 2


@pytest.fixture
def small(toy_spec):
    return load_solver(toy_spec.replace(":Toy", ":NoTwin"))


def step_of(solver, rows=2, variable="state"):
    gen = torch.Generator().manual_seed(5)
    state, forcing = torch.randn(2, rows, 2, 4, 4, generator=gen)
    return Step(solver, state, forcing, solver.step(state, forcing), variable)


@pytest.mark.parametrize("variable", ["state", "forcing"])
@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_agrees_with_jacobians(small, jacobians, tmp_path, variable, scheme):
    step, probing = step_of(small, variable=variable), Probing(1e-3, scheme, 10)
    expected = jacobians(step, 1e-3, scheme)
    for store in (JacobianStore(), JacobianStore(tmp_path)):
        found = torch.stack(store.fetch(step, probing))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert store.solver_steps == 64 * (2 if scheme == "central" else 1)


def test_what_is_known_is_counted_but_not_asked(small, tmp_path):
    first = CountedSolver(small)
    expected = torch.stack(JacobianStore(tmp_path, "toy").fetch(step_of(first), PROBING))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert not any(os.stat(path).st_mode & 0o222 for path in files)
    again, store = CountedSolver(small), JacobianStore(tmp_path, "toy")
    assert torch.equal(torch.stack(store.fetch(step_of(again), PROBING)), expected)
    assert (store.solver_steps, again.steps) == (0, first.steps)
    others = [
        (JacobianStore(tmp_path, "other"), PROBING, step_of(small)),
        (JacobianStore(tmp_path, "toy"), Probing(2e-3, states=10), step_of(small)),
        (JacobianStore(tmp_path, "toy"), PROBING, step_of(small, variable="forcing")),
    ]
    for other, probing, step in others:
        other.fetch(step, probing)
        assert other.solver_steps == 64


@pytest.mark.parametrize("harm", ["cut", "empty", "zeros"])
def test_a_file_that_is_not_whole_is_measured_anew(small, tmp_path, harm):
    step = step_of(small)
    expected = torch.stack(JacobianStore(tmp_path).fetch(step, PROBING))
    path = sorted(tmp_path.iterdir())[0]
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes({"cut": whole[:-40], "empty": b"", "zeros": bytes(len(whole))}[harm])
    store = JacobianStore(tmp_path)
    assert torch.equal(torch.stack(store.fetch(step, PROBING)), expected)
    assert store.solver_steps == 32
    assert path.read_bytes() == whole


def test_a_solver_that_answers_otherwise_is_asked(toy_spec, jacobians, tmp_path):
    one, other = (load_solver(toy_spec, {"shape": (4, 4), "viscosity": v}) for v in (0.2, 0.21))
    JacobianStore(tmp_path).fetch(step_of(one), PROBING)
    store = JacobianStore(tmp_path)
    found = torch.stack(store.fetch(step_of(other), PROBING))
    assert store.solver_steps == 64
    torch.testing.assert_close(found, jacobians(step_of(other), 1e-3), rtol=1e-3, atol=1e-4)


class Fails:
    """Answers so many calls, then fails."""

    def __init__(self, solver, calls):
        self.solver, self.grid, self.left = solver, solver.grid, calls

    def step(self, state, forcing=None):
        self.left -= 1
        if self.left < 0:
            raise SolverError("the cluster is down")
        return self.solver.step(state, forcing)


def test_after_a_crash_no_answered_call_is_asked_again(small, tmp_path):
    expected = torch.stack(JacobianStore().fetch(step_of(small), PROBING))
    store = JacobianStore(tmp_path)
    with pytest.raises(SolverError, match="down"):
        store.fetch(step_of(Fails(small, 1 + 6)), PROBING)
    assert store.solver_steps == 32 + 20
    counter, again = CountedSolver(small), JacobianStore(tmp_path)
    assert torch.equal(torch.stack(again.fetch(step_of(counter), PROBING)), expected)
    assert again.solver_steps == 12
    assert counter.steps == 2 + 64
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_raises(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"bank: got .*expected a folder with room for"):
        JacobianStore(tmp_path / "file").fetch(step_of(small), PROBING)


def test_workers_agree_even_where_one_is_killed(toy_spec, small, tmp_path):
    expected = torch.stack(JacobianStore().fetch(step_of(small), PROBING))
    marks = tmp_path / "marks"
    marks.mkdir()
    mortal = load_solver(toy_spec.replace(":Toy", ":Mortal"), {"marks": str(marks), "after": 4})
    counter = CountedSolver(BlackBox(mortal))
    step = step_of(counter)
    with WorkerPool(2) as pool:
        store = JacobianStore(tmp_path / "bank")
        found = torch.stack(store.fetch(step, Probing(1e-3, "forward", 10, pool)))
    assert torch.equal(found, expected)
    assert len(list(marks.iterdir())) == 1
    assert (store.solver_steps, counter.steps) == (64, 2 + 64)
