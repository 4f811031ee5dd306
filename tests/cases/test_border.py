"""The border of the black box: what a solver may do to its surroundings, and what is refused."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from zopde import (
    BlackBox,
    OneAtATime,
    SolverError,
    Trajectories,
    load_config,
    load_solver,
    rollout,
    run_correction,
    save_trajectories,
)
from zopde.blackbox import Apart
from zopde.errors import MistakeError
from zopde.progress import Silent
from zopde.studies.correct.check import check_solver
from zopde.studies.correct.check.points import check_contract
from zopde.studies.correct.check.states import States

ODD = Path(__file__).parent / "border" / "odd.py"
SMALL = [
    *("data.coarse=[8,8]", "data.train=2", "data.test=1", "corrector.sizes={width=3,depth=2}"),
    *('non.length="3 iterations"', 'training.length="4 iterations"', "training.unroll=2"),
    *("training.batch=2", "zo.sparsity=0.5", "zo.chunk=16", "run.failure_limit=0.9"),
    *("interface.snapshots=3", "interface.way=bank", 'run.labels=["SRC","NON","ZO-weights"]'),
]


class Told(Silent):
    """Remembers the notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def odd(kind, **options):
    return load_solver(f"{ODD}:{kind}", options)


@pytest.fixture
def states(gen):
    return 0.3 * torch.randn(2, 1, 8, 8, generator=gen)


@pytest.fixture
def train(tmp_path, states, gen):
    """(kind, changes) -> metrics and notes of a run on data of the honest solver."""
    data = rollout(odd("Honest"), 0.3 * torch.randn(3, 1, 8, 8, generator=gen), 10)
    save_trajectories(Trajectories(odd("Honest").grid, 1.01 * data), tmp_path / "d.nc")

    def run(kind, *changes, **options):
        told = Told()
        tables = {"solver": {"spec": f"{ODD}:{kind}", "options": options}}
        changes = [*SMALL, f'data.path="{tmp_path / "d.nc"}"', *changes]
        config = load_config("quick", None, changes, tables)
        new = {"overwrite": (tmp_path / "run" / "config.toml").exists(), "progress": told}
        return run_correction(config, tmp_path / "run", **new), told.notes

    return run


def points_of(kind, *changes, **options):
    tables = {"solver": {"spec": f"{ODD}:{kind}", "options": options}}
    changes = ["data.coarse=[8,8]", "corrector.sizes={width=3,depth=2}", *changes]
    found = check_solver(load_config("quick", None, changes, tables))
    return {point.name: point for point in found.points}


@pytest.mark.parametrize(
    "kind", ["OwnMemory", "OneBuffer", "InPlace", "Scratch", "Subclass", "Complex", "Restless"]
)
def test_answers_stay_and_states_too_exact(kind, states):
    right, before = rollout(BlackBox(odd("Honest")), states, 5), states.clone()
    assert rollout(BlackBox(odd(kind)), states, 5).equal(right)
    assert states.equal(before)
    assert type(BlackBox(odd(kind)).step(states)) is torch.Tensor
    if kind not in ("Restless", "Subclass"):
        assert rollout(odd(kind), states, 5).equal(right)


def surroundings():
    streams = torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()
    kept = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    return *kept, os.getcwd(), streams


def test_what_a_step_changes_around_it_is_put_back_exact(states):
    before, box = surroundings(), BlackBox(odd("Restless"))
    for _ in range(20):
        box.step(states)
        assert surroundings() == before


def test_a_solver_that_draws_from_the_global_streams_never_repeats(states):
    before, box = surroundings(), BlackBox(odd("Global"))
    answers = [box.step(states) for _ in range(30)]
    assert surroundings() == before
    assert not any(a.equal(b) for i, a in enumerate(answers) for b in answers[:i])


@pytest.mark.parametrize("what", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "Odd"])
def test_whatever_a_solver_raises_is_a_failed_step(what, states):
    box = BlackBox(odd("Raises", what=what))
    box.step(states)
    with pytest.raises(SolverError, match=f"step raised {what}"):
        [box.step(states) for _ in range(5)]


def test_ctrl_c_stays_ctrl_c(states):
    with pytest.raises(KeyboardInterrupt):
        BlackBox(odd("Interrupted")).step(states)


def test_a_run_goes_on_after_sys_exit_as_its_policy_says(train, tmp_path):
    with pytest.raises(SolverError, match="step raised SystemExit"):
        train("Raises", 'run.labels=["SRC"]')
    assert not (tmp_path / "run" / "metrics.json").exists()
    metrics, _ = train("Raises", "run.failures=retry")
    assert sum(sum(reasons.values()) for reasons in metrics["failures"].values()) > 5


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("Half", "got dtype torch.float16, expected the state's torch.float32"),
        ("Array", "got ndarray, expected a torch.Tensor"),
        ("Nothing", "got NoneType, expected a torch.Tensor"),
        ("Fewer", "got shape"),
        ("Sparse", "got layout"),
    ],
)
@pytest.mark.parametrize("policy", ["retry", "drop"])
def test_an_answer_that_is_no_state_ends_a_run_raises(kind, said, policy, train):
    with pytest.raises(MistakeError, match=said):
        train(kind, f"run.failures={policy}")


def test_windows_whose_stored_state_has_no_answer_are_left_out(train):
    labels = 'run.labels=["SRC","NON","ZO-weights","ZO-bank"]'
    with pytest.raises(SolverError, match="diverged"):
        train("Diverges", labels)
    metrics, notes = train("Diverges", labels, "run.failures=drop")
    assert any("stored states have no answer of the solver" in note for note in notes)
    assert metrics["iterations"]["ZO-bank"] == 7


@pytest.mark.parametrize(
    "kind",
    ["AdamsBashforth", "Leapfrog", "WarmStart", "Counts", "InTurn"],
)
def test_a_solver_with_a_memory_is_called_so(kind):
    points = points_of(kind)
    assert points["repeats"].verdict == "pass"
    assert points["memory"].verdict == "fail"
    assert "depends on what was asked before" in points["memory"].found
    assert not {"batch", "reach", "weight mu"} & set(points), "they would tell of it alone"


@pytest.mark.parametrize("kind", ["Global", "Drawn", "TwoValued"])
def test_a_random_solver_is_called_random(kind):
    points = points_of(kind)
    assert list(points)[:2] == ["contract", "repeats"]
    assert points["repeats"].verdict == "fail"
    assert "random" in points["repeats"].found
    assert points["memory"].verdict == "warn"


@pytest.mark.parametrize(
    ("kind", "verdict", "said"),
    [
        ("Constant", "fail", "does not depend on the state"),
        ("ByShape", "fail", "does not depend on the state"),
        ("ByMean", "fail", "does not depend on the state"),
        ("HalfKept", "warn", "32 of 64 cells of a come back bit for bit unchanged"),
        ("HalfConstant", "warn", "32 of 64 cells of a ignore the state"),
        ("Many", "warn", "63 of 64 cells of b ignore the state"),
    ],
)
def test_an_answer_that_ignores_the_state_is_seen(kind, verdict, said):
    found = points_of(kind)["state"]
    assert (found.verdict, said in found.found) == (verdict, True)


def test_single_precision_in_double_is_seen():
    found = points_of("Single", "run.dtype=float64")["precision"]
    assert "answers that float32 holds" in found.found


def test_a_state_that_is_no_number_is_no_changed_argument(states):
    states[0, 0, 3, 3] = torch.nan
    given = States(states, None, "my data", odd("Honest").grid)
    point, _, _ = check_contract(odd("Honest"), given, BlackBox)
    assert "NaN or infinity in the state to start from, my data" in point.found
    found = points_of("NotFinite", "data.fine=[8,8]")["contract"]
    assert "NaN or infinity in the state to start from, the solver's own scen" in found.found


def test_the_check_bears_failures_as_a_run_does():
    with pytest.raises(SolverError):
        points_of("Raises")
    for policy in ("retry", "drop"):
        points = points_of("Raises", f"run.failures={policy}")
        assert "fail" not in {point.verdict for point in points.values()}
    found = points_of("Diverges", "run.failures=drop")["contract"]
    assert (found.verdict, "failed and are left out" in found.found) == ("pass", True)


@pytest.mark.parametrize("kind", ["AdamsBashforth", "Leapfrog"])
def test_no_training_through_a_memory_raises(kind, train):
    with pytest.raises(SolverError, match="an answer depends on what was asked before"):
        train(kind)


def test_a_training_says_what_it_checked_and_counts_it(train):
    metrics, notes = train("Honest", 'run.labels=["SRC"]')
    assert metrics["checking_solver_steps"] == 4
    assert "solver, checked in 4 steps: the same answer twice, whatever was asked before" in notes


def test_a_training_through_noise_says_so(train):
    _, notes = train("Drawn", 'run.labels=["SRC"]')
    assert any("random: answers to one state differ by" in note for note in notes)


def test_a_memory_is_told_before_the_reach_that_it_fakes_raises(train):
    with pytest.raises(SolverError, match="an answer depends on what was asked before"):
        train("AdamsBashforth", 'run.labels=["SRC","ZO-coloured"]')


@pytest.mark.parametrize("wrapped", [OneAtATime, Apart])
def test_a_step_of_one_state_that_answers_nothing_is_a_mistake_raises(wrapped, states):
    with pytest.raises(MistakeError, match="got NoneType, expected a"):
        BlackBox(wrapped(odd("Nothing"))).step(states)
