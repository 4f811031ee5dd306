"""A program that goes wrong in one run of ten, in every way that there is."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zopde import Grid, save_trajectories, simulate
from zopde.solvers.command import Command
from zopde.studies.correct import load_config, run_correction

# Averages neighbours and adds the force. What else it does depends on the number of the run.
PROGRAM = """
import array, os, signal, sys, time
count = os.open(sys.argv[4], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(count, b"x")
mode = os.fstat(count).st_size % 60 if sys.argv[5] == "faulty" else 0
u = array.array("d", open(sys.argv[1], "rb").read())
f = array.array("d", open(sys.argv[2], "rb").read())
if mode == 7:
    os.kill(os.getpid(), signal.SIGKILL)
if mode == 17:
    time.sleep(60)
n = 4
new = array.array("d", [
    0.8 * u[c * 16 + i * n + j] + 0.1 * u[c * 16 + (i + 1) % n * n + j]
    + 0.1 * u[c * 16 + i * n + (j + 1) % n] + 0.1 * f[c * 16 + i * n + j]
    for c in range(2) for i in range(n) for j in range(n)
])
if mode == 23:
    new[5] = float("nan")
if mode == 41:
    new.append(1.0)
data = new.tobytes()
if mode == 31:
    data = data[: len(data) // 2]
if mode == 53:
    print("Segmentation violation"); data = b"garbage"
open(sys.argv[3], "wb").write(data)
"""


@pytest.fixture
def run(tmp_path, toy_spec):
    from zopde import load_solver

    toy = load_solver(toy_spec).at((4, 4))
    draw = torch.Generator().manual_seed(0)
    data = simulate(toy, lambda u: u, toy.grid, 3, 1, 5, draw, torch.float64)
    save_trajectories(data, tmp_path / "data.nc")
    (tmp_path / "program.py").write_text(PROGRAM)
    grid = (
        "grid={shape=[4,4],extent=[8.0,8.0],dt=0.1,channels=['velocity_y','velocity_x'],"
        "forcing_channels=['force_y','force_x'],units={velocity_y='m/s',velocity_x='m/s',"
        "time='s',space='m'}}"
    )

    def start(name, mode, *changes):
        arguments = ["{state}", "{forcing}", "{answer}", f"{tmp_path / mode}-runs", mode]
        command = [sys.executable, "-SE", str(tmp_path / "program.py"), *arguments]
        written = ",".join(f"'{part}'" for part in command)
        options = f"command=[{written}],files='raw',timeout=0.7,failed='{tmp_path / 'failed'}'"
        settings = [
            "data.coarse=[4,4]",
            "data.train=2",
            "data.test=1",
            "data.steps=5",
            "corrector.sizes={width=2,depth=2}",
            'non.length="5 iterations"',
            "non.batch=2",
            'training.length="2 iterations"',
            "training.batch=2",
            "training.unroll=2",
            "run.dtype=float64",
            "zo.sparsity=0.85",
            "zo.chunk=16",
            "interface.way=random",
            "interface.directions=4",
            'run.labels=["SRC","ZO-weights","ZO-interface"]',
            f"solver.options={{{options},{grid}}}",
            *changes,
        ]
        tables = {"solver": {"spec": "command"}, "data": {"path": str(tmp_path / "data.nc")}}
        config = load_config("quick", None, settings, tables)
        return run_correction(config, tmp_path / name), tmp_path / name

    return start


def weights(folder):
    files = sorted(Path(folder).glob("*/seed-0/model.safetensors"))
    return {f"{f.parts[-3]} {k}": v for f in files for k, v in load_file(f).items()}


def test_every_fault_of_a_program_is_survived_and_counted_exact(run):
    clean, there = run("clean", "sound")
    found, here = run("faulty", "faulty", "run.failures=retry", "run.retries=3")
    left, right = weights(there), weights(here)
    assert len(left) > 4
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert found["mae"] == clean["mae"]
    reasons = " ".join(reason for kinds in found["failures"].values() for reason in kinds)
    sizes = ("128 bytes", "264 bytes", "7 bytes")
    for said in ("SIGKILL after ... s", "no end after", "NaN", *sizes):
        assert said in reasons, reasons
    dropped, _ = run("dropping", "faulty", "run.failures=drop", "run.retries=0")
    assert not dropped["stopped_early"]
    assert sum(sum(kinds.values()) for kinds in dropped["failures"].values()) > 5


def test_a_program_with_a_seed_is_given_another(tmp_path):
    (tmp_path / "add.py").write_text(
        "import array, sys\n"
        'u = array.array("d", open(sys.argv[1], "rb").read())\n'
        'open(sys.argv[2], "wb").write(array.array("d", [v + int(sys.argv[3]) for v in u]))\n'
    )
    grid = Grid((2, 2), (1.0, 1.0), dt=0.1, channels=("a",))
    line = [sys.executable, "-SE", "{home}/add.py", "{state}", "{answer}"]
    noisy = Command([*line, "{seed}"], grid, files="raw", home=str(tmp_path), seed=5)
    state = torch.zeros(2, 1, 2, 2)
    assert noisy.step(state).unique().tolist() == [5.0]
    assert noisy.with_seed(7).step(state).unique().tolist() == [7.0]
    assert noisy.step(state).unique().tolist() == [5.0], "this one stays as it is"
    plain = Command([*line, "1"], grid, files="raw", home=str(tmp_path))
    assert plain.with_seed(7) is plain
