"""A solver in a process of its own."""

import pickle
from pathlib import Path

import pytest
import torch

from zopde import InputError, SolverError, load_solver
from zopde.blackbox import Apart, BlackBox, Retrying, failures_of

HERE = Path(__file__).parent.parent


def faulty(how, **options):
    return load_solver(f"{HERE / 'toy_faults.py'}:Flaky", {"how": how, **options})


@pytest.fixture
def batch(gen):
    return torch.randn(12, 2, 8, 8, generator=gen), torch.randn(12, 2, 8, 8, generator=gen)


def test_a_crash_takes_nobody_along(toy, batch):
    # Every new process counts anew, so that the same number of states brings it down.
    solver = Apart(faulty("crash", share=0.1, seed=5))
    with pytest.raises(SolverError, match=r"the solver's process ended by SIGSEGV") as caught:
        solver.step(*batch)
    bad = [failure.row for failure in caught.value.failures]
    good = [row for row in range(12) if row not in bad]
    assert 1 <= len(bad) <= 3
    torch.testing.assert_close(caught.value.answers[good], toy.step(*batch)[good])
    asked_again = Retrying(BlackBox(solver), times=3)
    torch.testing.assert_close(asked_again.step(*batch), toy.step(*batch))
    assert failures_of(asked_again)["the solver's process ended by SIGSEGV"] >= 1


def test_a_hang_ends_in_time(batch):
    solver = Apart(faulty("hang", share=1.0), timeout=0.2)
    with pytest.raises(SolverError, match=r"no answer within 0.2 s"):
        solver.step(batch[0][:2], batch[1][:2])


def test_errors_and_views_travel(toy, batch):
    solver = pickle.loads(pickle.dumps(Apart(faulty("whole", share=1.0))))
    with pytest.raises(SolverError, match="step raised ArithmeticError: pressure is negative"):
        solver.step(batch[0][:1], batch[1][:1])


def test_what_does_not_pickle_raises():
    with pytest.raises(InputError, match=r"a solver apart: got .*, expected one that pickles"):
        Apart(load_solver(f"{HERE / 'toy_solver.py'}:Unpicklable"))
    with pytest.raises(InputError, match="timeout"):
        Apart(faulty("hang"), timeout=-1.0)
