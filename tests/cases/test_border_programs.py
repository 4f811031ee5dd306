"""Programs and libraries at the border: their formats, their logs, their precision."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zopde import BlackBox, SolverError, load_config, load_solver
from zopde.child import last_lines
from zopde.studies.correct.check import check_solver

HERE = Path(__file__).parent / "border"
GRID = {"shape": [4, 6], "extent": [4.0, 6.0], "dt": 0.2, "channels": ["tracer"]}
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
needs_fortran = pytest.mark.skipif(shutil.which("gfortran") is None, reason="no gfortran here")


def answering(kind, tmp_path):
    command = [sys.executable, str(HERE / "answers.py"), kind]
    options = {"command": command, "files": "netcdf", "grid": GRID, "failed": str(tmp_path)}
    return BlackBox(load_solver("command", options))


@pytest.mark.parametrize(
    "kind",
    [
        *("classic", "offset64", "classic, times", "times, back", "times", "times, last"),
        *("one level", "falling y"),
    ],
)
def test_an_answer_in_netcdf_is_read_exact(kind, tmp_path, gen):
    state = torch.randn(1, 1, 4, 6, generator=gen, dtype=torch.float64)
    assert answering(kind, tmp_path).step(state).equal(0.99 * state)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("levels", r"the axes \(z, y, x\), expected \(y, x\), and a time at most"),
        ("other axes", r"the axes \(lat, lon\), expected \(y, x\)"),
        ("no time", "and time is empty"),
        ("unwritten", "1 of 24 values are NaN"),
        ("cut short", "neither NetCDF4 nor a classic file"),
        ("newest", "neither NetCDF4 nor a classic file"),
    ],
)
def test_an_answer_that_is_none_is_told_in_one_line_raises(kind, said, tmp_path):
    with pytest.raises(SolverError, match=said):
        answering(kind, tmp_path).step(torch.ones(1, 1, 4, 6))


def test_of_a_log_the_line_that_says_why_is_shown():
    frames = "".join(f"#{i}  0x7f0f92645304 in ???\n\tat ../csu/x.c:{i}\n" for i in range(9))
    fortran = "At line 4 of file a.f90\nFortran runtime error: End of file\n\n"
    log = f"step 1\n{fortran}Error termination. Backtrace:\n{frames}"
    assert last_lines(log.encode()).splitlines()[-1] == "Fortran runtime error: End of file"
    late = "ERROR: no convergence in cell 7\n" + "".join(f"closing file {i}\n" for i in range(9))
    assert last_lines(late.encode()).startswith("ERROR: no convergence in cell 7")
    sizes = "".join(f"error = {0.1**i}\n" for i in range(3)) + "".join("done\n" * 5)
    assert last_lines(sizes.encode()) == "\n".join(["done"] * 5)
    assert last_lines(frames.encode())


RECORDS = """
import struct, sys
import numpy as np
u = 0.99 * np.fromfile("state.bin")
with open("answer.bin", "wb") as file:
    for row in u.reshape(int(sys.argv[1]), -1):
        mark = struct.pack("=i", row.nbytes)
        file.write(mark + row.tobytes() + mark)
"""


@pytest.mark.parametrize("records", [1, 4])
def test_record_markers_get_a_word_raises(records, tmp_path):
    (tmp_path / "records.py").write_text(RECORDS)
    command = [sys.executable, "{home}/records.py", str(records)]
    options = {"command": command, "files": "raw", "grid": GRID, "home": str(tmp_path)}
    solver = load_solver("command", {**options, "failed": str(tmp_path / "failed")})
    with pytest.raises(SolverError, match="no record markers: open them with access='stream'"):
        solver.step(torch.ones(1, 1, 4, 6))


@needs_fortran
def test_a_fortran_program_that_reads_records_gets_a_word_raises(tmp_path):
    (tmp_path / "a.f90").write_text(
        "program a\n  real(8) :: u(24)\n  open(10, file='state.bin', form='unformatted')\n"
        "  read(10) u\nend program\n"
    )
    subprocess.run(["gfortran", "a.f90", "-o", "a"], cwd=tmp_path, check=True)
    options = {"command": ["./a"], "files": "raw", "grid": GRID, "home": str(tmp_path)}
    solver = load_solver("command", {**options, "failed": str(tmp_path / "failed")})
    with pytest.raises(SolverError, match=r"access='stream'.*Fortran runtime error"):
        solver.step(torch.ones(1, 1, 4, 6))


SOURCE = """
void single(float *u, const float *f) { for (int i = 0; i < 24; i++) u[i] = 0.5f * u[i] + f[i]; }
void halved(float *u) { for (int i = 0; i < 24; i++) u[i] *= 0.99f; }
static double old[24]; static int started;
void multistep(double *u) {
    double t[24];
    for (int i = 0; i < 24; i++) t[i] = -0.2 * (u[i] - u[(i + 23) % 24]);
    for (int i = 0; i < 24; i++) { if (!started) old[i] = t[i]; u[i] += 1.5 * t[i] - 0.5 * old[i]; }
    for (int i = 0; i < 24; i++) old[i] = t[i];
    started = 1;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    (folder / "a.c").write_text(SOURCE)
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "a.c", "-o", "a.so"], cwd=folder, check=True)
    return {"library": str(folder / "a.so"), "sizes": "none", "grid": GRID}


@needs_cc
@pytest.mark.parametrize("isolated", [True, False])
def test_a_library_of_single_precision_exact(isolated, library, gen):
    grid = {**GRID, "forcing_channels": ["f"]}
    options = {**library, "grid": grid, "symbol": "single", "dtype": "float32"}
    solver = load_solver("ctypes", {**options, "isolated": isolated})
    u, f = torch.randn(2, 2, 1, 4, 6, generator=gen)
    assert solver.step(u, f).equal(torch.tensor(0.5) * u + f)


def points(options):
    changes = ["corrector.sizes={width=3,depth=2}"]
    tables = {"solver": {"spec": "ctypes", "options": options}}
    found = check_solver(load_config("quick", None, changes, tables))
    return {point.name: point for point in found.points}


@needs_cc
def test_a_library_that_takes_halves_of_doubles_is_seen(library):
    found = points({**library, "symbol": "halved"})["state"]
    assert found.verdict == "warn"
    assert "12 of 24 cells of tracer come back bit for bit unchanged" in found.found
    assert 'dtype="float32"' in found.remedy
    right = points({**library, "symbol": "halved", "dtype": "float32"})
    assert {point.verdict for name, point in right.items() if name != "reach"} == {"pass"}


@needs_cc
def test_a_library_with_a_memory_is_seen(library):
    found = points({**library, "symbol": "multistep"})
    assert found["repeats"].verdict == "pass"
    assert found["memory"].verdict == "fail"


def test_a_function_with_a_buffer_of_its_own_exact(gen):
    buffer = np.empty((2, 1, 4, 6))

    def step(u):
        buffer[:] = 0.5 * u
        return buffer

    options = {"function": step, "grid": GRID, "batched": True}
    solver = BlackBox(load_solver("callable", options))
    u, v = torch.randn(2, 2, 1, 4, 6, generator=gen)
    first = solver.step(u)
    solver.step(v)
    assert first.equal(0.5 * u)
