"""Worker processes: what they inherit, and that none is left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from zopde import InputError, WorkerPool

SCRIPT = """
import os, time
from zopde import WorkerPool

def main():
    with WorkerPool(2) as pool:
        pids = {pool.submit(os.getpid).result() for _ in range(1)}
        print(*pids, flush=True)
        pool.submit(time.sleep, 60).result()

MAIN
"""


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(1) as pool:
        yield pool


def test_threads_are_set_in_torch_and_in_the_environment(pool):
    before = os.environ.get("OMP_NUM_THREADS")
    assert pool.submit(torch.get_num_threads).result() == 1
    assert pool.submit(os.getenv, "OPENBLAS_NUM_THREADS").result() == "1"
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_workers_do_not_write_to_stdout(pool, capfd):
    pool.submit(os.write, 1, b"chatter").result()
    shown = capfd.readouterr()
    assert shown.out == ""


def test_a_new_worker_takes_over(pool):
    pid = pool.submit(os.getpid).result()
    lost = pool.submit(time.sleep, 60)
    os.kill(pid, signal.SIGKILL)
    assert lost.exception() is not None
    assert pool.submit(os.getpid).result() != pid


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_error_inside_the_block_ends_the_workers_at_once():
    began = time.monotonic()
    pool = WorkerPool(1)
    pid = pool.submit(os.getpid).result()
    pool.submit(time.sleep, 60)
    with pytest.raises(ZeroDivisionError), pool:
        _ = 1 / 0
    assert not alive(pid)
    assert time.monotonic() - began < 40
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(os.getpid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(stop, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("MAIN", 'if __name__ == "__main__":\n    main()'))
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        if stop == signal.SIGINT:  # Ctrl-C reaches everybody in the terminal
            os.killpg(process.pid, stop)
        else:
            process.send_signal(stop)
        errors = process.communicate(timeout=30)[1]
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))
    if stop == signal.SIGINT:
        assert errors.count("Traceback") == 1, "workers leave Ctrl-C to their parent"


def test_script_without_a_main_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("MAIN", "main()").replace("(2)", "(1, patience=1)"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "if __name__" in done.stderr


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": 1, "threads": -1}])
def test_numbers_raise(wrong):
    with pytest.raises(InputError, match="a finite number > 0"):
        WorkerPool(**wrong)
