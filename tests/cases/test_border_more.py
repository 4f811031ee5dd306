"""The border of the black box, where users met a wrong number, or words of other programs."""

import io
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch

from zopde import BlackBox, ColouredPullback, Grid, InputError, SolverError, load_solver
from zopde.blackbox import Apart
from zopde.interface import CheckedAt, Step

ODD = Path(__file__).parent / "border" / "odd.py"
CAVITY = Path(__file__).parent.parent.parent / "examples" / "cavity"
installed = pytest.mark.skipif(
    not (shutil.which("icoFoam") and shutil.which("blockMesh")), reason="OpenFOAM is not installed"
)


@pytest.fixture
def case(tmp_path):
    shutil.copytree(CAVITY, tmp_path / "case")
    return tmp_path / "case"


def solver_on(case):
    return load_solver("openfoam", {"case": str(case), "dt": 0.1, "shape": [6, 8]})


def included(case, line, file="constant/transportProperties"):
    """The case, a file of which ends in a line with an #include."""
    with (case / file).open("a") as out:
        out.write(f"\n{line}\n")
    return case


@installed
@pytest.mark.parametrize("directive", ["include", "sinclude", "includeIfPresent"])
@pytest.mark.parametrize("name", ["../common", "../../common", "$FOAM_CASE/common"])
def test_a_file_that_a_copy_of_the_case_lacks_is_named(case, directive, name):
    """An optional one would be left out in silence, and the viscosity with it."""
    included(case, f'#{directive} "{name}"')
    home = case.parent if name == "../../common" else case
    (home / "common").write_text("nu nu [0 2 -1 0 0 0 0] 0.5;\n")
    with pytest.raises(InputError, match="outside of its folders 0, constant and system") as caught:
        solver_on(case)
    assert f'#include "{name}" in {case}/constant/transportProperties' in str(caught.value)
    assert f"put the file into {case}/constant and include it from there" in str(caught.value)
    assert "\n" not in str(caught.value)


@installed
def test_a_file_that_is_nowhere_is_named_unless_it_need_not_be_there(case):
    included(case, '#includeIfPresent "../common"')
    included(case, '/* #include "../common" */ // #include "../common"')
    state = torch.zeros(1, 3, 6, 8, dtype=torch.float64)
    assert solver_on(case).step(state).isfinite().all()
    included(case, '#include "../common"')
    with pytest.raises(InputError, match="a file that is not there"):
        solver_on(case)


@installed
@pytest.mark.parametrize("name", ["shared", "../constant/shared", "$FOAM_CASE/constant/shared"])
def test_a_file_of_the_case_is_included_exact(case, name):
    state = torch.randn(1, 3, 6, 8, generator=torch.Generator().manual_seed(0)).double()
    before = solver_on(case).step(state)
    (case / "constant" / "shared").write_text("nu nu [0 2 -1 0 0 0 0] 0.5;\n")
    thicker = solver_on(included(case, f'#include "{name}"')).step(state)
    assert (thicker - before).abs().max() > 0.01
    absolute = included(case, f'#include "{case}/constant/shared"', "constant/transportProperties")
    assert torch.equal(solver_on(absolute).step(state), thicker)


@pytest.mark.parametrize("way", ["replace", "none"])
def test_stdout_and_stderr_are_put_back(way, monkeypatch):
    ours = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", ours[0])
    monkeypatch.setattr(sys, "stderr", ours[1])
    box, state = BlackBox(load_solver(f"{ODD}:Mute", {"way": way})), torch.rand(2, 1, 8, 8)
    for _ in range(3):
        box.step(state)
        assert (sys.stdout, sys.stderr) == ours
        sys.stdout.write("a result\n")
    assert ours[0].getvalue() == 3 * "a result\n"


def test_streams_that_a_step_closes_are_opened_again(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    box = BlackBox(load_solver(f"{ODD}:Mute", {"way": "close"}))
    for _ in range(3):
        box.step(torch.rand(2, 1, 8, 8))
        sys.stdout.write("a result\n")
        sys.stderr.write("a word\n")
    assert capfd.readouterr() == (3 * "a result\n", 3 * "a word\n")


def test_a_step_that_ends_its_process_is_a_failed_step_apart():
    """In this process nothing can be done about it: see docs/howto/failures.md."""
    box = BlackBox(Apart(load_solver(f"{ODD}:Mute", {"way": "exit"})))
    with pytest.raises(SolverError, match="the solver's process ended with exit code 0"):
        box.step(torch.rand(1, 1, 8, 8))


class Mover:
    """Moves its state by some cells, which somebody changes."""

    grid = Grid((16,), (16.0,), 0.1, ("a",))
    cells = 1

    def step(self, state, forcing=None):
        return state.roll(self.cells, -1)

    def stepped(self):
        state = torch.rand(1, 1, 16, generator=torch.Generator().manual_seed(0)).double()
        return Step(self, state, None, self.step(state)), torch.ones_like(state).cumsum(-1)


def test_a_check_that_finds_a_product_off_says_which_were_not_compared(tmp_path):
    solver, said = Mover(), []
    coloured = ColouredPullback(solver.grid, (1,), check_every=10)  # the products 1, 2, 4, 8, 11
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            coloured(*solver.stepped())
        solver.cells = 3
        for _ in range(3):
            coloured(*solver.stepped())
    with pytest.warns(UserWarning, match=r"from now on; the 3 products before were not compared$"):
        coloured(*solver.stepped())

    def checked_at(path):
        solver.cells = 1
        pullbacks = {"state": ColouredPullback(solver.grid, (1,), check_every=0)}
        return CheckedAt(pullbacks, torch.Generator().manual_seed, 4, path, said.append)

    whole = checked_at(None)
    for iteration in range(13):
        solver.cells = 1 if iteration < 6 else 3
        whole(iteration)(*solver.stepped())
    resumed = checked_at(tmp_path / "radii.json")
    solver.cells = 3
    for iteration in range(7, 9):
        resumed(iteration)(*solver.stepped())
    assert len(said) == 2
    assert said[0].startswith("iteration 8: coloured, radius (1,): a product")
    assert said[0].endswith("radius (3,) from now on; iterations 5 to 7 were not compared")
    assert said[0] == said[1]
