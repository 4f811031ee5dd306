"""A program that stays alive: its answers, its failures, its end."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from zopde import Grid, InputError, SolverError, load_solver
from zopde.solvers.pipe import numbers_of

PROGRAM = Path(__file__).parent / "resident_program.py"
GRID = {"shape": [2, 2], "extent": [1.0, 1.0], "dt": 0.1, "channels": ["a", "b"]}


def pipe(how="", **options):
    options = {"grid": GRID, "command": [sys.executable, str(PROGRAM), how], **options}
    return load_solver("pipe", options)


def states(batch=3, channels=2, n=2):
    values = torch.arange(batch * channels * n * n, dtype=torch.float64)
    return values.view(batch, channels, n, n) / 7


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def gone(pid, within=5.0):
    until = time.monotonic() + within
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_program_answers_every_state_exact(dtype):
    solver, given = pipe(), states().to(dtype)
    kept = given.clone()
    for _ in range(2):
        answer = solver.step(given)
        assert answer.dtype == dtype
        assert answer.equal(2 * given)
    assert given.equal(kept)


def test_forcing_follows_the_state_exact():
    grid = {**GRID, "forcing_channels": ["f", "g"]}
    solver = pipe(grid=grid, environment={"SIZE": "8"})
    forcing = states().flip(0)
    assert solver.step(states(), forcing).equal(2 * states() + forcing)
    with pytest.raises(InputError, match="forcing"):
        solver.step(states())


@pytest.mark.parametrize("order", ["C", "F"])
def test_order_of_the_numbers_exact(order):
    """The program answers what it got: only what is asked for and what is read can differ."""
    grid = Grid(shape=(2, 3), extent=(1.0, 1.0), dt=0.1, channels=("a", "b"))
    given = torch.arange(12.0).view(1, 2, 2, 3)
    assert pipe("order", grid=grid, order=order).step(given).equal(given)
    first = torch.frombuffer(bytearray(numbers_of(order, given[0].double())), dtype=torch.float64)
    expected = given.flatten() if order == "C" else given[0].permute(2, 1, 0).flatten()
    assert first.equal(expected.double())


def test_large_states_and_much_talk_do_not_lock_up():
    grid = {**GRID, "shape": [200, 200]}
    given = states(2, 2, 200)
    assert pipe("chat", grid=grid, timeout=20.0).step(given).equal(2 * given)


def test_processes_side_by_side_agrees():
    given = states(7)
    alone, together = pipe().step(given), pipe(concurrency=3).step(given)
    assert alone.equal(together)
    pids = pipe("pid", concurrency=3).step(given)[:, 0, 0, 0]
    assert 1 <= len(set(pids.tolist())) <= 3


@pytest.mark.parametrize(
    ("how", "reason", "log"),
    [
        ("die", "exit code 3", "first line\nno memory left"),
        ("crash", "signal 6", ""),
        ("hang", "no answer within", ""),
        ("nan", "1 of 8 values are NaN", ""),
        ("text", "only answers belong on stdout", ""),
        ("half", "exit code 0", ""),
        ("short", "announced 1 numbers, expected 8", ""),
        ("decline", "not this state", "did not converge"),
    ],
)
@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_failed_state_is_told_apart_raises(how, reason, log, concurrency):
    given = states(4)
    given[2].fill_(13.0)
    patience = {"timeout": 0.5, "start_timeout": 1.0} if how == "hang" else {}
    solver = pipe(how, concurrency=concurrency, **patience)
    for _ in range(2):  # what failed has been replaced
        with pytest.raises(SolverError, match="1 of 4 states failed; state 2") as caught:
            solver.step(given)
        (failure,) = caught.value.failures
        assert failure.row == 2
        assert reason in failure.reason
        assert failure.log == log
        good = torch.tensor([0, 1, 3])
        assert caught.value.answers[good].equal(2 * given[good])
        assert caught.value.answers[2].isnan().all()


def test_output_that_nobody_asked_for_raises():
    solver = pipe("unasked")
    solver.step(states(1))
    time.sleep(0.1)
    with pytest.raises(SolverError, match="without being asked"):
        solver.step(states(1))


def test_a_state_that_is_not_finite_is_not_sent_raises():
    given = states(2)
    given[1, 0, 0, 0] = torch.inf
    with pytest.raises(SolverError, match="state 1: the state to start from"):
        pipe().step(given)


def test_a_process_that_died_while_idle_is_replaced():
    solver = pipe("pid")
    first = int(solver.step(states(1))[0, 0, 0, 0])
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    assert int(solver.step(states(1))[0, 0, 0, 0]) != first


def test_pickled_it_starts_its_own_and_ends_with_it():
    solver = pipe("pid")
    other = pickle.loads(pickle.dumps(solver))
    pids = [int(s.step(states(1))[0, 0, 0, 0]) for s in (solver, other)]
    assert pids[0] != pids[1]
    del solver
    gc.collect()
    assert gone(pids[0])
    assert alive(pids[1])


def test_wrong_settings_raises(tmp_path):
    for options, match in (
        ({"command": ["no-such-program"]}, "no-such-program"),
        ({"command": ["./no-such-program"], "home": str(tmp_path)}, "executable"),
        ({"command": []}, "command"),
        ({"command": "./program"}, "a list"),
        ({"order": "X"}, "order"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0.0}, "timeout"),
    ):
        with pytest.raises(InputError, match=match):
            pipe(**options)


def test_a_table_runs_in_its_folder(tmp_path):
    (tmp_path / "program").write_text(f"#!{sys.executable}\n{PROGRAM.read_text()}")
    (tmp_path / "program").chmod(0o755)
    (tmp_path / "case.toml").write_text(
        'solver = "pipe"\ncommand = ["./program"]\n[grid]\nshape = [2, 2]\nextent = [1.0, 1.0]\n'
        'dt = 0.1\nchannels = ["a", "b"]\n'
    )
    solver = load_solver(str(tmp_path / "case.toml"))
    assert solver.step(states()).equal(2 * states())


USER = """
import sys, torch
from zopde import load_solver
grid = {"shape": [2, 2], "extent": [1.0, 1.0], "dt": 0.1, "channels": ["a", "b"]}
command = [sys.executable, sys.argv[1]]
asked = load_solver("pipe", {"grid": grid, "command": [*command, "pid"]})
print(int(asked.step(torch.zeros(1, 2, 2, 2).double())[0, 0, 0, 0]), flush=True)
slow = load_solver("pipe", {"grid": grid, "command": [*command, "hang"], "concurrency": 2})
slow.step(torch.full((2, 2, 2, 2), 13.0))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_over(end):
    """Ctrl-C in the middle of a step ends those that hang, a kill those that read their stdin."""
    user = subprocess.Popen(
        [sys.executable, "-c", USER, str(PROGRAM)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pids = [int(user.stdout.readline())]
    if end == signal.SIGINT:
        time.sleep(0.3)
        listed = [path.read_text() for path in Path(f"/proc/{user.pid}/task").glob("*/children")]
        pids = sorted({*pids, *map(int, " ".join(listed).split())})
        assert len(pids) == 3
    user.send_signal(end)
    user.wait(20)
    user.stdout.close()
    assert all(gone(pid) for pid in pids)
