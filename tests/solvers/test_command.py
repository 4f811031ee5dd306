"""Any executable as a solver: what goes in and out, and every way in which a run can fail."""

import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from zopde import Grid, InputError, SolverError, load_solver
from zopde.errors import MistakeError
from zopde.solvers.command import Command

GRID = Grid((2, 3), (2.0, 3.0), dt=0.1, channels=("a", "b"))

# Doubles what it reads; the first number says what else it does.
PROGRAM = """
import array, os, signal, sys, time
values = array.array("d", open(sys.argv[1], "rb").read())
mode = int(values[0])
print("mode", mode, flush=True)
if mode == 1:
    print("pressure did not converge"); sys.exit(3)
if mode == 2:
    import subprocess
    child = subprocess.Popen(["sleep", "60"])
    print("child", child.pid, flush=True)
    time.sleep(60)
if mode == 3:
    values[2] = float("nan")
if mode == 4:
    sys.exit(0)
if mode == 6:
    print("FATAL: diverged")
if mode == 7:
    os.kill(os.getpid(), signal.SIGKILL)
out = array.array("d", [2 * v for v in values]).tobytes()
open(sys.argv[2], "wb").write(out[:40] if mode == 5 else out)
"""


@pytest.fixture
def doubling(tmp_path):
    (tmp_path / "double.py").write_text(PROGRAM)

    def make(**options):
        return Command(
            [sys.executable, "-S", "{home}/double.py", "{state}", "{answer}"],
            GRID,
            **{"files": "raw", "failed": "failed", "home": str(tmp_path), **options},
        )

    return make


def states(*modes):
    values = torch.arange(12.0, dtype=torch.float64).view(1, 2, 2, 3).repeat(len(modes), 1, 1, 1)
    values[:, 0, 0, 0] = torch.tensor(modes, dtype=torch.float64)
    return values


def ended(pid):
    """Whether a process ends within seconds; a zombie, whose parent was lost, has."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_every_state_is_a_run(doubling):
    state = states(0, 0, 0)
    state[1] += 0.125
    torch.testing.assert_close(doubling(concurrency=2).step(state), 2 * state, rtol=0, atol=0)
    single = doubling().step(state.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, 2 * state.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (1, "exit code 3 after"),
        (2, "no end after 1.5 s"),
        (3, "1 of 12 values are NaN"),
        (4, "no answer.bin was written"),
        (5, "answer.bin holds 40 bytes, expected 96"),
        (6, "exit code 0, but its log says 'FATAL'"),
        (7, "ended by SIGKILL"),
    ],
)
def test_a_failed_run_raises_with_the_answers_of_the_others(doubling, tmp_path, mode, reason):
    state = states(0, mode, 0)
    solver = doubling(timeout=1.5 if mode == 2 else 30.0, error_pattern="FATAL", concurrency=3)
    with pytest.raises(SolverError, match="1 of 3 runs failed; state 1") as caught:
        solver.step(state)
    (failure,) = caught.value.failures
    assert failure.row == 1
    assert reason in failure.reason
    assert reason in str(caught.value)
    assert ("FATAL" if mode == 6 else f"mode {mode}") in failure.log
    assert "\n" not in str(caught.value)
    assert Path(failure.folder).parent == tmp_path / "failed"
    assert (Path(failure.folder) / "state.bin").read_bytes() == state[1].numpy().tobytes()
    answers = caught.value.answers
    assert answers[1].isnan().all()
    torch.testing.assert_close(answers[[0, 2]], 2 * state[[0, 2]], rtol=0, atol=0)


def test_a_run_that_hangs_leaves_no_process(doubling):
    with pytest.raises(SolverError) as caught:
        doubling(timeout=1.5).step(states(2))
    child = int(caught.value.failures[0].log.split()[-1])
    assert ended(child)


def test_waiting_for_a_turn_is_not_counted(doubling):
    solver = doubling(timeout=1.5, concurrency=1)
    with pytest.raises(SolverError, match="1 of 2 runs") as caught:
        solver.step(states(2, 0))  # the second waits for longer than its time
    assert caught.value.failures[0].row == 0


def test_a_state_that_is_not_finite_costs_no_run(doubling):
    with pytest.raises(SolverError, match="is not finite") as caught:
        doubling().step(states(0, float("nan")).nan_to_num(float("inf")))
    assert [f.folder for f in caught.value.failures] == [""]


def test_failed_folders_are_limited_and_good_ones_deleted(doubling, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    solver = doubling(keep_failed=2, work="work", concurrency=2)
    for _ in range(2):
        with pytest.raises(SolverError) as caught:
            solver.step(states(1, 1, 0, 1))
        assert [bool(f.folder) for f in caught.value.failures] == [True, True, False]
        assert all(Path(f.folder).is_dir() for f in caught.value.failures[:2])
    assert len(list((tmp_path / "failed").iterdir())) == 2
    assert not list(work.iterdir())


INTERRUPTED = """
import sys, torch, zopde
from zopde import load_solver
load_solver(sys.argv[1]).step(torch.full((4, 1, 2, 2), 0.0))
"""


def test_an_interrupt_ends_every_run(tmp_path):
    (tmp_path / "case.toml").write_text(
        'solver = "command"\nconcurrency = 2\nwork = "work"\n'
        'command = ["sh", "-c", "sleep 60 & echo $! > {home}/pid-$$; sleep 60"]\n'
        'grid = {shape = [2, 2], extent = [1.0, 1.0], dt = 1.0, channels = ["a"]}\n'
    )
    (tmp_path / "work").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "case.toml")], stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("pid-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in text
    marks = list(tmp_path.glob("pid-*"))
    assert len(marks) == 2
    for mark in marks:  # the shell, and what it started
        assert ended(int(mark.name.removeprefix("pid-")))
        assert ended(int(mark.read_text()))
    assert not list((tmp_path / "work").iterdir())


FUNCTIONS = """
import numpy as np
def write(folder, state, forcing):
    np.savetxt(folder / "in.txt", np.concatenate([state, forcing]).ravel())
def read(folder):
    return np.loadtxt(folder / "in.txt").reshape(3, 2, 3)[:2]
"""


@pytest.mark.parametrize("files", ["npy", "raw", "netcdf", "functions"])
@pytest.mark.parametrize("dtype", ["float64", ">f4"])
def test_a_state_survives_its_files(files, dtype, tmp_path, gen):
    grid = Grid((2, 3), (2.0, 3.0), 0.1, ("a", "b"), forcing_channels=("force",))
    options = {"files": files, "dtype": dtype, "state": "s", "answer": "s"}
    if files == "functions":
        (tmp_path / "io.py").write_text(FUNCTIONS)
        options = {"write": "io.py:write", "read": "io.py:read", "home": str(tmp_path)}
    state = torch.randn(2, 2, 2, 3, generator=gen, dtype=torch.float64)
    state = state.float().double() if dtype == ">f4" else state
    solver = pickle.loads(pickle.dumps(Command(["true"], grid, **options)))
    answer = solver.step(state, torch.ones(2, 1, 2, 3))
    torch.testing.assert_close(answer, state, rtol=0, atol=0)


@pytest.mark.parametrize("expression", ["u.astype(int)", "u > 0", "u + 0j"])
@pytest.mark.parametrize("concurrency", [1, 2])
def test_numbers_of_another_type_are_not_converted_raises(expression, concurrency, tmp_path):
    program = f"import numpy as np; u = np.load('state.npy'); np.save('answer.npy', {expression})"
    solver = Command([sys.executable, "-c", program], GRID, concurrency=concurrency)
    with pytest.raises(MistakeError, match=r"command .python.* floating-point numbers: ndarray of"):
        solver.step(states(0, 1))


def test_whole_numbers_in_netcdf_are_not_converted_raises(tmp_path):
    sizes = {"y": 2, "x": 3}
    whole, real = (xr.DataArray(np.ones((2, 3), kind), dims=sizes) for kind in ("int32", "float64"))
    xr.Dataset({"a": real, "b": whole}).to_netcdf(tmp_path / "mixed.nc", engine="h5netcdf")
    command = ["cp", "{home}/mixed.nc", "answer.nc"]
    with pytest.raises(MistakeError, match="ndarray of int32"):
        Command(command, GRID, files="netcdf", home=str(tmp_path)).step(states(0))


def test_a_masked_cell_is_a_failed_state_raises(tmp_path):
    text = "import numpy as np\ndef write(*_): pass\n"
    text += "def read(folder): return np.ma.masked_equal(np.arange(12.0).reshape(2, 2, 3), 4)\n"
    (tmp_path / "io.py").write_text(text)
    functions = {"write": "io.py:write", "read": "io.py:read", "home": str(tmp_path)}
    with pytest.raises(SolverError, match="1 of 12 values are NaN"):
        Command(["true"], GRID, failed=str(tmp_path), **functions).step(states(0))


def test_raw_files_in_fortran_order(tmp_path):
    command = ["cp", "{state}", "{home}/kept.bin"]
    grid = Grid((2, 3), (1.0, 1.0), 0.1, ("a",))
    state = torch.arange(6.0).view(1, 1, 2, 3)
    options = {"files": "raw", "order": "F", "state": "u.bin", "answer": "u.bin"}
    answer = Command(command, grid, home=str(tmp_path), **options).step(state)
    torch.testing.assert_close(answer, state)
    assert np.fromfile(tmp_path / "kept.bin").tolist() == [0, 3, 1, 4, 2, 5]


def test_template_placeholders_and_environment(tmp_path):
    (tmp_path / "case").mkdir()
    program = tmp_path / "case" / "run.sh"
    program.write_text('test "$1" = 7 && test "$LEVEL" = 2 && test "$PWD" = "$2" && cp $3 $4')
    program.chmod(0o755)
    program.write_text("#!/bin/sh\n" + program.read_text())
    command = ["./run.sh", "{seed}", "{folder}", "{state}", "{answer}"]
    options = {"template": "case", "seed": 7, "environment": {"LEVEL": "2"}}
    solver = Command(command, GRID, home=str(tmp_path), failed="failed", **options)
    torch.testing.assert_close(solver.step(states(1, 2)), states(1, 2))
    assert [path.name for path in (tmp_path / "case").iterdir()] == ["run.sh"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"command": "ls -l"}, "expected a list"),
        ({"command": ["no-such-program"]}, "a program that is found"),
        ({"command": ["mine"]}, "./mine for the one in"),
        ({"command": ["./mine"]}, "is it executable"),
        ({"template": "nowhere"}, "template.*a folder that is there"),
        ({"error_pattern": "("}, "error_pattern"),
        ({"timeout": 0.0}, "timeout"),
        ({"concurrency": 0}, "concurrency"),
        ({"files": "nyp"}, "did you mean 'npy'"),
        ({"dtype": "int32"}, "dtype"),
        ({"write": "io.py:write"}, "both or none"),
        ({"grid": {"shape": [2, 2]}}, "no 'extent'"),
    ],
)
def test_a_wrong_option_raises(options, words, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(InputError, match=words):
        Command(**{"command": ["true"], "grid": GRID, "home": str(tmp_path), **options})


def test_a_table_makes_a_command(tmp_path):
    (tmp_path / "case.toml").write_text(
        'solver = "command"\ncommand = ["cp", "{state}", "{answer}"]\n'
        'grid = {shape = [2, 2], extent = [1.0, 1.0], dt = 1.0, channels = ["a"]}\n'
    )
    solver = load_solver(str(tmp_path / "case.toml"), {"concurrency": 2})
    state = torch.randn(3, 1, 2, 2)
    torch.testing.assert_close(solver.step(state), state)
