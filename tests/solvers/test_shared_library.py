"""A shared library as a solver: its calls, its crashes."""

import pickle
import shutil
import subprocess

import pytest
import torch

from zopde import Grid, InputError, SolverError, load_solver

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")

SOURCE = r"""
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
void step(double *u, int channels, int ny, int nx) {
    for (int i = 0; i < channels * ny * nx; i++) u[i] *= 2;
    printf("a library may print\n"); fflush(stdout);
}
void driven(double *u, const double *f, int *channels, int *ny, int *nx) {
    for (int i = 0; i < *channels * *ny * *nx; i++) u[i] = 2 * u[i] + f[i];
}
void fixed(double *u) { for (int i = 0; i < 12; i++) u[i] *= 2; }
int guarded(double *u) {
    if (u[0] == 13) { fprintf(stderr, "diverged\n"); return 7; }
    fixed(u);
    return 0;
}
void crash(double *u) { if (u[0] == 13) abort(); fixed(u); }
void hang(double *u) { if (u[0] == 13) sleep(600); fixed(u); }
void nan_at_13(double *u) { fixed(u); if (u[0] == 26) u[1] = NAN; }
void rank(double *u) { for (int i = 0; i < 12; i++) u[i] = i; }
"""
GRID = Grid(shape=(2, 3), extent=(1.0, 1.0), dt=0.1, channels=("a", "b"))
DRIVEN = Grid((2, 3), (1.0, 1.0), 0.1, channels=("a", "b"), forcing_channels=("f", "g"))
PLAIN = {"sizes": "none"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    (folder / "step.c").write_text(SOURCE)
    words = ["cc", "-O1", "-shared", "-fPIC", "step.c", "-o", "libstep.so", "-lm"]
    subprocess.run(words, cwd=folder, check=True)
    return folder


def library(folder, symbol, grid=GRID, **options):
    return load_solver(
        "ctypes",
        {"grid": grid, "library": "libstep.so", "home": str(folder), "symbol": symbol, **options},
    )


def states(batch=3):
    return torch.arange(batch * 12.0).view(batch, 2, 2, 3) / 7


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(
    ("symbol", "options"),
    [("step", {}), ("fixed", PLAIN), ("guarded", {**PLAIN, "status": True})],
)
def test_a_library_steps_every_state_exact(folder, symbol, options, isolated):
    given = states()
    solver = library(folder, symbol, isolated=isolated, **options)
    for one in (solver, pickle.loads(pickle.dumps(solver))):
        assert one.step(given).equal(2 * given)
    assert given.equal(states())


@pytest.mark.parametrize("isolated", [True, False])
def test_forcing_and_sizes_by_reference_exact(folder, isolated):
    solver = library(folder, "driven", DRIVEN, sizes="reference", isolated=isolated)
    forcing = states().flip(0)
    assert solver.step(states(), forcing).equal(2 * states() + forcing)


@pytest.mark.parametrize("isolated", [True, False])
def test_order_of_the_numbers_exact(folder, isolated):
    answers = {
        order: library(folder, "rank", order=order, isolated=isolated, **PLAIN).step(states(1))[0]
        for order in ("C", "F")
    }
    assert answers["C"].equal(torch.arange(12.0).view(2, 2, 3))
    assert answers["F"].equal(torch.arange(12.0).view(3, 2, 2).permute(2, 1, 0))


@pytest.mark.parametrize(
    ("symbol", "reason", "log"),
    [
        ("crash", "killed by signal 6", ""),
        ("hang", "no answer within", ""),
        ("nan_at_13", "NaN", ""),
        ("guarded", "not this state", "diverged\nguarded returned 7"),
    ],
)
def test_a_failed_state_is_told_apart_raises(folder, symbol, reason, log):
    given = states()
    given[1, 0, 0, 0] = 13.0
    options = {"timeout": 1.0} if symbol == "hang" else {}
    solver = library(folder, symbol, status=symbol == "guarded", **options, **PLAIN)
    with pytest.raises(SolverError, match="1 of 3 states failed; state 1") as caught:
        solver.step(given)
    (failure,) = caught.value.failures
    assert failure.row == 1
    assert reason in failure.reason
    assert failure.log == log
    assert caught.value.answers[::2].equal(2 * given[::2])


def test_a_status_in_this_process_raises(folder):
    solver = library(folder, "guarded", status=True, isolated=False, **PLAIN)
    with pytest.raises(SolverError, match="guarded returned 7"):
        solver.step(torch.full((1, 2, 2, 3), 13.0))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"symbol": "stepp"}, "stepp"),
        ({"symbol": "step", "library": "no-such.so"}, "no-such.so"),
        ({"symbol": "step", "sizes": "pointer"}, "did you mean|one of"),
    ],
)
def test_wrong_settings_raises(folder, options, match):
    with pytest.raises(InputError, match=match):
        library(folder, **options)
