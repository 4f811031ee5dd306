"""Asking again, and doing without."""

import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch

from zopde import InputError, OneAtATime, SolverError, load_solver
from zopde.blackbox import (
    BlackBox,
    CountedSolver,
    Dropping,
    Retrying,
    TooManyFailuresError,
    failures_of,
)
from zopde.errors import Failure

HERE = Path(__file__).parent.parent
STATES = 40


def flaky(how, share=0.1, seed=0):
    options = {"how": how, "share": share, "seed": seed}
    return BlackBox(load_solver(f"{HERE / 'toy_faults.py'}:Flaky", options))


@pytest.fixture
def batch(gen):
    return torch.randn(STATES, 2, 8, 8, generator=gen), torch.randn(STATES, 2, 8, 8, generator=gen)


@pytest.mark.parametrize("how", ["raise", "nan", "whole"])
def test_asking_again_gives_the_answers_without_faults(how, toy, batch):
    solver = Retrying(flaky(how), times=6)
    for _ in range(3):
        assert torch.equal(solver.step(*batch), toy.step(*batch))
    assert sum(failures_of(solver).values()) > 5


def test_only_failed_states_are_asked_about_again(batch):
    inside = CountedSolver(flaky("raise"))
    solver = Retrying(inside, times=9)
    solver.step(*batch)
    assert inside.steps == STATES + failures_of(solver)["no convergence"] < 1.5 * STATES


def test_what_fails_again_and_again_raises_with_the_others_answers(toy, batch):
    solver = Retrying(flaky("raise", share=0.5), times=1)
    with pytest.raises(SolverError, match=r"\d+ of 40 states failed; the first: no conv") as caught:
        solver.step(*batch)
    bad = [failure.row for failure in caught.value.failures]
    good = [row for row in range(STATES) if row not in bad]
    assert 2 < len(bad) < 25
    assert torch.equal(caught.value.answers[good], toy.step(*batch)[good])
    assert caught.value.answers[bad].isnan().any(dim=3).any(dim=2).any(dim=1).all()


@pytest.mark.parametrize("how", ["raise", "nan", "whole"])
@pytest.mark.parametrize("times", [0, 1])
def test_dropping_answers_nan_where_it_failed(how, times, toy, batch):
    found = Dropping(Retrying(flaky(how, share=0.3), times=times)).step(*batch)
    bad = found.flatten(1).isnan().any(dim=1)
    assert 0 < bad.sum() < STATES
    assert torch.equal(found[~bad], toy.step(*batch)[~bad])


def test_divergence_is_no_fault_and_what_is_not_finite_is_not_asked_about(batch):
    inside = CountedSolver(flaky("raise", share=0.0))
    solver = Retrying(inside)
    state, forcing = batch[0].clone(), batch[1].clone()
    state[3, 0, 0, 0], forcing[5, 1, 2, 2] = torch.nan, torch.inf
    found = solver.step(state, forcing)
    assert found.flatten(1).isnan().all(dim=1).nonzero().flatten().tolist() == [3, 5]
    assert inside.steps == STATES - 2
    assert not failures_of(solver)


def test_too_many_failures_end_even_a_run_that_drops(batch):
    solver = Dropping(Retrying(flaky("raise", share=0.5), times=1, limit=0.2))
    with pytest.raises(TooManyFailuresError, match=r"solver steps failed, more .* 20 %; the"):
        [solver.step(*batch) for _ in range(5)]
    again = pickle.loads(pickle.dumps(TooManyFailuresError("no", [Failure(1, "x")])))
    assert isinstance(again, TooManyFailuresError)


def test_a_share_of_failures_within_the_limit_is_borne(batch):
    solver = Dropping(Retrying(flaky("raise"), times=1, limit=0.3))
    for _ in range(5):
        solver.step(*batch)
    assert failures_of(solver)["no convergence"] > 10


def test_reasons_are_few(batch):
    class Talkative:
        grid, said = flaky("raise").grid, 0

        def step(self, state, forcing=None):
            self.said += 1
            raise SolverError(f"failure number {self.said}")

    solver = Dropping(Retrying(Talkative(), times=2))
    solver.step(*batch)
    counts = failures_of(solver)
    assert len(counts) <= 21
    assert counts["other"] > 80


def test_numbers_in_a_reason_do_not_make_it_another_one(batch):
    class Timed:
        grid, said = flaky("raise").grid, 0

        def step(self, state, forcing=None):
            self.said += 1
            raise SolverError(f"exit code 3 after {self.said / 7} s")

    solver = Dropping(Retrying(Timed(), times=2))
    solver.step(*batch)
    assert list(failures_of(solver)) == ["exit code 3 after ... s"]


def test_copies_count_anew_and_counts_add_up(batch):
    solver = CountedSolver(Retrying(flaky("raise"), times=6))
    solver.step(*batch)
    copy = pickle.loads(pickle.dumps(solver))
    assert (solver.steps, copy.steps) == (STATES, 0)
    assert not failures_of(copy)
    before = failures_of(solver)
    solver.add(Counter({"steps": 3, "failed: no convergence": 2}))
    assert solver.steps == STATES + 3
    assert failures_of(solver) - before == Counter({"no convergence": 2})


def test_one_at_a_time_says_which_failed(toy, batch):
    with pytest.raises(SolverError, match="states failed; the first: no conv") as caught:
        OneAtATime(flaky("raise")).step(*batch)
    bad = [failure.row for failure in caught.value.failures]
    good = [row for row in range(STATES) if row not in bad]
    torch.testing.assert_close(caught.value.answers[good], toy.step(*batch)[good])


@pytest.mark.parametrize("options", [{"times": -1}, {"limit": 0.0}])
def test_numbers_raise(options, toy):
    with pytest.raises(InputError, match=next(iter(options))):
        Retrying(toy, **options)
