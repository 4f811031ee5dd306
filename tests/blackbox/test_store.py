"""Answers kept on disk."""

import contextlib
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from zopde import InputError, SolverError, load_solver
from zopde.blackbox import BlackBox, CountedSolver, Retrying, Store, Stored

HERE = Path(__file__).parent.parent


@pytest.fixture
def batch(gen):
    return torch.randn(9, 2, 8, 8, generator=gen), torch.randn(9, 2, 8, 8, generator=gen)


def kept(solver, path, identity="toy", **options):
    counter = CountedSolver(BlackBox(solver))
    return Stored(counter, Store(path), identity, **options), counter


def test_nothing_is_asked_twice_even_by_another_process_exact(tmp_path, toy, batch):
    first, asked = kept(toy, tmp_path / "store")
    expected = first.step(*batch)
    assert torch.equal(expected, toy.step(*batch))
    assert torch.equal(first.step(*batch), expected)
    assert asked.steps == 9
    again, asked = kept(toy, tmp_path / "store")
    mixed = [torch.cat([values[3:], values[:1] + 1]) for values in batch]
    answer = again.step(*mixed)
    assert torch.equal(answer, toy.step(*mixed))
    assert asked.steps == 1
    assert again.counts()["stored"] == 6


@pytest.mark.parametrize("change", ["state", "forcing", "dtype", "identity", "seed"])
def test_whatever_decides_the_answer_is_in_the_key(change, tmp_path, toy, batch):
    stochastic = load_solver(f"{HERE / 'toy_faults.py'}:Noisy")
    first, _ = kept(stochastic, tmp_path / "store")
    first.with_seed(2).step(*batch)
    identity = "other" if change == "identity" else "toy"
    solver, asked = kept(stochastic, tmp_path / "store", identity)
    again = solver.with_seed(2)
    again.step(*batch)
    assert asked.steps == (9 if change == "identity" else 0)
    asked.steps = 0
    state, forcing = batch[0].clone(), batch[1].clone()
    if change == "state":
        state += 1e-6
    if change == "forcing":
        forcing += 1e-6
    if change == "dtype":
        state = state.double()
    if change == "seed":
        again = solver.with_seed(3)
    again.step(state, forcing)
    assert asked.steps == (0 if change == "identity" else 9)


def test_a_seed_means_nothing_to_a_solver_without_noise(tmp_path, toy, batch):
    solver, asked = kept(toy, tmp_path / "store")
    assert solver.with_seed(3) is solver
    assert isinstance(asked.with_seed(4), CountedSolver)


def test_what_failed_is_not_kept_and_the_rest_is(tmp_path, batch):
    spec = f"{HERE / 'toy_faults.py'}:Flaky"
    for how, times in (("raise", 0), ("nan", 0), ("raise", 9)):
        path = tmp_path / f"{how}{times}"
        solver, asked = kept(load_solver(spec, {"how": how, "share": 0.4, "seed": 1}), path)
        guarded = Retrying(solver, times)
        try:
            answer = guarded.step(*batch)
        except SolverError as error:
            answer = error.answers
        good = int(answer.flatten(1).isfinite().all(dim=1).sum())
        assert (good < 9) == (times == 0)
        before = asked.steps
        load_again, asked_again = kept(load_solver(spec, {"share": 0.0}), path)
        load_again.step(*batch)
        assert asked_again.steps == 9 - good
        assert before >= 9


def test_a_corrupted_entry_is_a_miss(tmp_path, toy, batch):
    solver, asked = kept(toy, tmp_path / "store")
    expected = solver.step(*batch)
    with sqlite3.connect(tmp_path / "store") as other:
        other.execute("UPDATE answers SET answer = zeroblob(512) WHERE number = 2")
        other.execute("UPDATE answers SET answer = substr(answer, 1, 100) WHERE number = 5")
    assert torch.equal(solver.step(*batch), expected)
    assert asked.steps == 9 + 2
    solver.step(*batch)
    assert asked.steps == 9 + 2, "mended"


def test_the_oldest_go_when_it_is_full(tmp_path, toy, gen):
    path = tmp_path / "store"
    limit = 100_000
    solver = Stored(BlackBox(toy), Store(path, limit / 2**30), "toy", at_once=10)
    states = torch.randn(600, 2, 8, 8, generator=gen)
    for part in states.split(50):
        solver.step(part, part)
    with sqlite3.connect(path) as other:
        numbers = [row[0] for row in other.execute("SELECT number FROM answers ORDER BY number")]
    assert numbers[-1] == 600
    assert numbers[0] > 400
    assert path.stat().st_size < 1.3 * limit


def test_what_is_no_store_raises(tmp_path):
    (tmp_path / "notes.txt").write_text("my notes, which are no database at all\n" * 50)
    with pytest.raises(InputError, match=r"store: got .*notes.txt .*not a database"):
        Store(tmp_path / "notes.txt")
    assert "my notes" in (tmp_path / "notes.txt").read_text()
    with pytest.raises(InputError, match="store: got"):
        Store(tmp_path)


def test_a_store_travels_to_other_processes(tmp_path, toy, batch):
    solver, _ = kept(toy, tmp_path / "store")
    solver.step(*batch)
    copy = pickle.loads(pickle.dumps(solver))
    copy.step(*batch)
    assert copy.counts() == {"stored": 9}


CHILD = """
import sys, torch
from pathlib import Path
from zopde.blackbox import Store
store = Store(Path(sys.argv[1]))
for k in range(int(sys.argv[2]), 10**6):
    store.write([(b"key %d" % k, b"answer %d" % k * 100)])
    print(k, flush=True)
"""


def test_threads_may_open_a_new_file_at_once(tmp_path):
    def opened(start, path):
        start.wait(timeout=30)
        store = Store(path)
        store.write([(b"key", b"answer")])
        return store.read([b"key"])

    for number in range(30):  # a barrier each, so that one failure leaves nobody waiting
        start, path = threading.Barrier(6), tmp_path / f"store{number}"
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(opened, [start] * 6, [path] * 6))
        assert found == [{b"key": b"answer"}] * 6


OPENER = """
import sys
from pathlib import Path
from zopde.blackbox import Store
print("ready", flush=True)
for line in sys.stdin:
    Store(Path(line.strip())).write([(b"key", b"answer")])
    print("done", flush=True)
"""


def test_processes_may_open_a_new_file_at_once(tmp_path):
    with contextlib.ExitStack() as stack:
        children = []
        for _ in range(3):
            command = [sys.executable, "-c", OPENER]
            pipe = subprocess.PIPE
            child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)
            children.append(stack.enter_context(child))
            stack.callback(child.kill)
        assert [child.stdout.readline() for child in children] == ["ready\n"] * 3
        for number in range(30):
            for child in children:
                child.stdin.write(f"{tmp_path / str(number)}\n")
            assert [child.stdout.readline() for child in children] == ["done\n"] * 3


def test_entries_survive_a_kill_and_two_writers(tmp_path):
    path, said = tmp_path / "store", []
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(start)], stdout=subprocess.PIPE
        )
        for start in (0, 500_000)
    ]
    for child in children:
        for _ in range(50):
            said.append(int(child.stdout.readline()))
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
        said += [int(line) for line in child.communicate()[0].split(b"\n")[:-1]]
    found = Store(path).read([b"key %d" % k for k in said])
    assert found == {b"key %d" % k: b"answer %d" % k * 100 for k in said}
    assert min(said) == 0
    assert max(said) > 500_000
