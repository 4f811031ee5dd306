"""A solver in a process of its own."""

import pickle
import signal
import subprocess
import sys
import time
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


TALKING = """
import os, time
from zopde import Grid

class Talking:
    grid = Grid((2, 2), (1.0, 1.0), 0.1, ("a",))

    def step(self, state, forcing=None):
        print("step of", float(state[0, 0, 0, 0]), flush=True)
        if state[0, 0, 0, 0] == 13:
            os.abort()
        if state[0, 0, 0, 0] == 14:
            raise ValueError("no convergence")
        if state[0, 0, 0, 0] == 15:
            child = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
            with open("pids", "w") as file:
                file.write(f"{os.getpid()} {child}")
            time.sleep(60)
        return 2 * state
"""


@pytest.fixture
def talking(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talking.py").write_text(TALKING)
    return Apart(load_solver(f"{tmp_path / 'talking.py'}:Talking"))


def states(*first):
    return torch.tensor(first, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def ended(pid):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_a_failure_keeps_the_last_lines_that_the_solver_printed(talking, capfd):
    with pytest.raises(SolverError, match=r"2 of 4 .*; its log ends: step of 13") as caught:
        talking.step(states(1, 13, 14, 2))
    crashed, raised = caught.value.failures
    assert crashed.reason == "the solver's process ended by SIGABRT"
    assert raised.reason == "step raised ValueError: no convergence"
    assert raised.log == "step of 14.0"
    assert caught.value.answers[[0, 3]].equal(2 * states(1, 2))
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_step_leaves_no_answer_behind(talking):
    """The answer to a state that nobody waits for any more must not be the next one's."""

    def interrupt(*_):
        raise KeyboardInterrupt

    talking.step(states(1))
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            talking.step(states(15))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert talking.step(states(3)).equal(2 * states(3))
    # What the solver had started ended with it.
    assert all(ended(int(pid)) for pid in Path("pids").read_text().split())


def test_a_step_that_hangs_does_not_outlive_its_parent(talking):
    script = "from zopde.blackbox import Apart; from zopde import load_solver; import torch\n"
    script += "solver = Apart(load_solver('talking.py:Talking'))\n"
    script += "solver.step(torch.full((1, 1, 2, 2), 15.0))"
    parent = subprocess.Popen([sys.executable, "-c", script])
    until = time.monotonic() + 60
    while not (Path("pids").exists() and Path("pids").read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert all(ended(int(pid)) for pid in Path("pids").read_text().split())
