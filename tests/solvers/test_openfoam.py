"""OpenFOAM's fields and cases; with OpenFOAM installed, its icoFoam as well."""

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from zopde import InputError, SolverError, load_solver
from zopde.errors import StepError
from zopde.solvers.foambox import Box
from zopde.solvers.foamfields import FoamField, FoamFiles
from zopde.solvers.openfoam import environment

CAVITY = Path(__file__).parent.parent.parent / "examples" / "cavity"
installed = pytest.mark.skipif(
    not (shutil.which("icoFoam") and shutil.which("blockMesh")), reason="OpenFOAM is not installed"
)


@pytest.fixture
def case(tmp_path):
    shutil.copytree(CAVITY, tmp_path / "case")
    return tmp_path / "case"


def solver_on(case, **options):
    return load_solver(
        "openfoam", {"case": str(case), "dt": 0.1, "shape": [6, 8], "substeps": 2, **options}
    )


def speeds(gen, *shape):
    return 0.1 * torch.randn(*shape, generator=gen, dtype=torch.float64)


@pytest.mark.parametrize("name", ["U", "p"])
def test_a_field_survives_bit_by_bit(name, tmp_path):
    field = FoamField.of(CAVITY / "0" / name)
    values = np.random.default_rng(0).standard_normal((len(field.channels), 3, 4))
    values[0, 0, :2] = 1e-310, -0.0
    field.write(tmp_path, values)
    assert field.read(tmp_path, (3, 4)).tobytes() == values.tobytes()
    assert b"boundaryField" in (tmp_path / name).read_bytes()


def test_a_uniform_field_is_read(tmp_path):
    field = FoamField.of(CAVITY / "0" / "U")
    assert field.channels == ("U_x", "U_y")
    (tmp_path / "U").write_text("FoamFile {}\ninternalField   uniform (1 2.5 0);\n")
    assert field.read(tmp_path, (1, 2)).tolist() == [[[1, 1]], [[2.5, 2.5]]]


def test_a_boundary_keeps_what_it_took_from_the_case(tmp_path):
    text = (CAVITY / "0" / "p").read_text().replace("uniform 0", "uniform 3")
    walls = "walls { type fixedValue; value $internalField; }"
    (tmp_path / "p").write_text(text.replace("walls { type zeroGradient; }", walls))
    field = FoamField.of(tmp_path / "p")
    field.write(tmp_path, np.ones((1, 3, 4)))
    written = (tmp_path / "p").read_bytes()
    places = [written.index(b"uniform 3;"), written.index(b"$internalField"), written.index(b"non")]
    assert places == sorted(places)  # a macro takes what stands before it, OpenFOAM the last entry
    assert field.read(tmp_path, (3, 4)).min() == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw[:-300], "short"),
        (lambda raw: raw.replace(b"binary", b"ascii "), "binary"),
        (lambda raw: b"", "no internalField"),
    ],
)
def test_a_broken_field_raises(change, words, tmp_path):
    field = FoamField.of(CAVITY / "0" / "p")
    field.write(tmp_path, np.ones((1, 3, 40)))
    (tmp_path / "p").write_bytes(change((tmp_path / "p").read_bytes()))
    with pytest.raises(StepError, match=words):
        field.read(tmp_path, (3, 40))
    with pytest.raises(StepError, match="no time folder"):
        FoamFiles((field,), (3, 40)).read(tmp_path)


def test_the_mesh_of_a_case_and_at_another_resolution():
    box = Box.of(CAVITY)
    assert (box.shape, box.extent) == ((16, 16), (1.0, 1.0))
    assert b"(8 6 1) simpleGrading" in box.dictionary((6, 8))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("simpleGrading (1 1 1)", "simpleGrading (2 1 1)"),
        ("(16 16 1)", "(16 16 2)"),
        ("(1 1 0)", "(1.5 1 0)"),
        ("hex (0 1 2 3 4 5 6 7)", "hex (3 0 1 2 7 4 5 6)"),
        ("scale 1;", "scale $size;"),
    ],
)
def test_another_mesh_raises(old, new, case):
    path = case / "system" / "blockMeshDict"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match="one hex block"):
        Box.of(case)


def test_without_openfoam_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InputError, match="apt install openfoam"):
        solver_on(CAVITY)


@installed
def test_a_step_agrees_with_icofoam_by_hand(case, tmp_path, gen):
    """The same start, the same time, OpenFOAM's own way of writing it all: not one bit differs."""
    solver = solver_on(case, dt=0.25, substeps=5)
    state = speeds(gen, 2, 3, 6, 8)
    answer = solver.step(state)
    FoamFiles(tuple(FoamField.of(case / "0" / n) for n in ("U", "p")), (6, 8)).write(
        case, state[1].numpy(), None
    )
    (case / "system" / "controlDict").write_text(
        "FoamFile { version 2.0; format ascii; class dictionary; object controlDict; }\n"
        "application icoFoam; startFrom startTime; startTime 0; stopAt endTime; endTime 0.25;\n"
        "deltaT 0.05; writeControl runTime; writeInterval 0.25; writeFormat ascii;\n"
        "writePrecision 17;\n"
    )
    mesh = case / "system" / "blockMeshDict"
    mesh.write_text(mesh.read_text().replace("(16 16 1)", "(8 6 1)"))
    for program in ("blockMesh", "icoFoam"):
        env = {**os.environ, **environment()}
        subprocess.run([program], cwd=case, env=env, check=True, stdout=subprocess.DEVNULL)
    numbers = (case / "0.25" / "U").read_text().split("48\n(")[1].split(")\n)")[0]
    rows = [[float(x) for x in line.strip("() ").split()] for line in numbers.split("\n") if line]
    by_hand = torch.tensor(rows, dtype=torch.float64)[:, :2].T.reshape(2, 6, 8)
    assert torch.equal(answer[1, :2], by_hand)


@installed
def test_a_copy_and_a_batch_give_the_same_bits(gen):
    solver, state = solver_on(CAVITY, concurrency=2), speeds(gen, 3, 3, 6, 8)
    answer = solver.step(state)
    assert torch.equal(pickle.loads(pickle.dumps(solver)).step(state[1:2]), answer[1:2])
    assert solver.step(state.float()).dtype == torch.float32


@installed
def test_interruptions_change_little():
    """icoFoam keeps phi from step to step, a state has none: 0.4 % of the lid's speed here."""
    rest = torch.zeros(1, 3, 6, 8, dtype=torch.float64)
    whole = solver_on(CAVITY, dt=0.4, substeps=8).step(rest)
    parts, solver = rest, solver_on(CAVITY)
    for _ in range(4):
        parts = solver.step(parts)
    assert 0 < (parts - whole)[:, :2].abs().max() < 1e-2


@installed
def test_what_openfoam_says_of_a_failure_is_in_the_message(case, tmp_path, gen):
    text = (case / "system" / "fvSolution").read_text()
    (case / "system" / "fvSolution").write_text(text.replace("PCG", "NoSuch"))
    solver = solver_on(case, failed=str(tmp_path / "failed"))
    with pytest.raises(SolverError, match=r"icoFoam: 1 of 1 runs failed.*NoSuch") as caught:
        solver.step(speeds(gen, 1, 3, 6, 8))
    assert (Path(caught.value.failures[0].folder) / "0" / "U").exists()
    mesh = case / "system" / "blockMeshDict"
    mesh.write_text(mesh.read_text().replace("(3 7 6 2)", "(3 7 6 5)"))
    with pytest.raises(InputError, match="blockMesh says"):
        solver_on(case)
