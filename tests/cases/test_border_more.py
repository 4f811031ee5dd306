"""The border of the black box, where users met a wrong number, or words of other programs."""

import shutil
from pathlib import Path

import pytest
import torch

from zopde import InputError, load_solver

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
