"""OpenFOAM cases as people write them: read right, or refused in one line."""

import gzip
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from zopde import InputError, load_solver
from zopde.errors import StepError
from zopde.solvers.foambox import Box
from zopde.solvers.foamfields import FoamField, FoamFiles

CAVITY = Path(__file__).parent.parent.parent / "examples" / "cavity"
installed = pytest.mark.skipif(
    not (shutil.which("icoFoam") and shutil.which("blockMesh")), reason="OpenFOAM is not installed"
)
BINARY = b' format binary; arch "LSB;label=32;scalar=64"; '  # goes to the end of the header
FRONT = "internalField uniform (0 0 0);"
LID = "value uniform (1 0 0);"
PROFILE = " ".join(["(1 0 0)"] * 8)

# What 0/U says in other words: none of them changes an answer.
SAME_FIELDS = {
    "block comment": (FRONT, f"/* was: internalField uniform (1 0 0); */\n{FRONT}"),
    "line comment": (FRONT, f"// internalField   uniform (1 0 0);\n{FRONT}"),
    "comment behind": (FRONT, f"{FRONT}\n/* internalField uniform (1 0 0); */"),
    "comment inside": (FRONT, "internalField /* ; */ uniform // (1 0 0);\n (0 0 0);"),
    "brace in a comment": (FRONT, f"// }} (\n/* {{ */ {FRONT}"),
    "Latin-1": (FRONT, f"// f\xfcr 20 \xb0C\n{FRONT}"),
    "two entries": (FRONT, f"internalField uniform (9 9 9);\n{FRONT}"),
    "the last at the end": (FRONT, "internalField uniform (9 9 9);", "", f"\n{FRONT}"),
    "no new line at the end": ("", "// the end"),
    "macro": (FRONT, "start (0 0 0);\ninternalField uniform $start;"),
    "macro in braces": (FRONT, "start (0 0 0);\ninternalField uniform ${start};"),
    "macro from the top": (FRONT, "start (0 0 0);\ninternalField uniform $:start;"),
    "lid takes the case's": (LID, "value $internalField;", FRONT, "internalField uniform (1 0 0);"),
    "lid in braces": (LID, "value ${internalField};", FRONT, "internalField uniform (1 0 0);"),
    "lid from the top": (LID, "value $:internalField;", FRONT, "internalField uniform (1 0 0);"),
    "lid takes an earlier one": (
        *(FRONT, "internalField uniform (1 0 0);", LID, "value $internalField;"),
        *("", f"\n{FRONT}"),
    ),
    "ascii list": (LID, f"value nonuniform List<vector> 8 ({PROFILE});"),
    "ascii list without spaces": (LID, f"value nonuniform List<vector> 8({PROFILE});"),
    "list with comments": (LID, f"value nonuniform List<vector> /* n */ 8 // n\n({PROFILE});"),
    "list of one value": (LID, "value nonuniform List<vector> 8{(1 0 0)};"),
    "nonuniform start": (FRONT, "internalField nonuniform List<vector> 48{(0 0 0)};"),
    "note with braces": ("object U;", 'object U; note "a } b { ; internalField";'),
    "verbatim code": (FRONT, f"code #{{ internalField uniform (1 0 0); }} #}};\n{FRONT}"),
    "string": (FRONT, f'note "internalField uniform (1 0 0);";\n{FRONT}'),
    "pattern": ("lid {", '"l.d" {'),
    "spare semicolons": (FRONT, f";; {FRONT};"),
    "header says binary": ("format ascii", "format binary"),
    "carriage returns": ("\n", "\r\n"),
}
REFUSED_FIELDS = [
    ("#inputMode", FRONT, f"#inputMode protect\n{FRONT}"),
    ("#ifeq", FRONT, f"#ifeq a b\ninternalField uniform (1 0 0);\n#endif\n{FRONT}"),
    ("a comment that", FRONT, f"/* {FRONT}"),
    ("does not end", "sides { type empty; }\n}", "sides { type empty; }\n"),
    ("closes nothing", FRONT, "internalField uniform (0 0 0));"),
    ("'}' where a keyword", FRONT, f"}}\n{FRONT}"),
    ("and an internalField", FRONT, f"// {FRONT}"),
    ("of class surfaceScalarField", "volVectorField", "surfaceScalarField"),
    ("of class ?", "FoamFile", "// FoamFile"),
    ("holds 2", LID, "value nonuniform List<vector> 3((0 0 0) (0 0 0));"),
]
GRADED = "simpleGrading (1 1 1)"
SAME_MESHES = {
    "numbers with a point": (GRADED, "simpleGrading (1.0 1.0 1.0)"),
    "edges": (GRADED, f"edgeGrading ({'1 ' * 12})"),
    "one ratio": (GRADED, "simpleGrading (1)"),
    "zone": ("(16 16 1)", "fluid (16 16 1)"),
    "a line each": (") (16 16 1) simple", ")\n\n(16\n16\n1)\nsimple"),
    "comments": ("(16 16 1)", "(16 /* along x */ 16 // along y\n 1)"),
    "hex in a comment": ("blocks", "// hex (0 1 2 3 4 5 6 7) (8 8 1)\nblocks"),
    "convertToMeters": ("scale 1;", "convertToMeters 1.0;"),
    "the last scale": ("scale 1;", "scale 5; scale 1e0;"),
    "scaled": (
        "scale 1;",
        "scale 0.5;",
        *("(1 1 0)", "(2 2 0)", "(1 0 0)", "(2 0 0)"),
        *("(0 1 0)", "(0 2 0)"),
        *("(0 0 0.1)", "(0 0 0.2)"),
        *("(1 0 0.1)", "(2 0 0.2)"),
        *("(1 1 0.1)", "(2 2 0.2)"),
        *("(0 1 0.1)", "(0 2 0.2)"),
    ),
    "macros": ("scale 1;", "n 16; one 1; scale $one;", "(16 16 1)", "($n ${n} $:one)"),
    "a macro of all cells": ("(16 16 1)", "$n", "scale 1;", "n (16 16 1); scale 1;"),
    "a changed macro": ("scale 1;", "n 1; scale $n; n 7;"),
    "counted lists": ("vertices", "vertices 8", "blocks", "blocks 1", "boundary", "boundary 3"),
    "names": ("    (0 0 0)\n", "    name origin (0 0 0)\n", "hex (0", "name b hex (origin"),
    "no edges": ("blocks", "edges ();\nmergePatchPairs ();\nblocks"),
    "Latin-1": ("blocks", "// Gr\xf6\xdfe\nblocks"),
    "faces of the block": ("((3 7 6 2))", "((0 3))"),
}
REFUSED_MESHES = [
    ("grading", GRADED, "simpleGrading (1 2 1)"),
    ("brackets in brackets", GRADED, "simpleGrading (1 1 ((0.5 0.5 1) (0.5 0.5 1)))"),
    ("another block", "hex (0 1 2 3 4 5 6 7)", "hex (3 2 1 0 7 6 5 4)"),
    ("another block", "hex (0 1 2 3 4 5 6 7)", "hex (1 2 3 0 5 6 7 4)"),
    ("another block", "hex (0 1 2 3 4 5 6 7)", "hex (2 3 0 1 6 7 4 5)"),
    ("edges", "blocks", "edges (arc 0 1 (0.5 -0.1 0));\nblocks"),
    ("$size in", "scale 1;", "scale $size;"),
    ("$a.b in", "scale 1;", "a { b 1; } scale $a.b;"),
    ("#calc", "scale 1;", 'scale #calc "1";'),
    ("#eval", "scale 1;", "scale #eval{1};"),
    ("#includeEtc", "scale 1;", '#includeEtc "x"\nscale 1;'),
    ("#include", "scale 1;", '#include "nothing"\nscale 1;'),
    ("not one hex", "hex (0", "hex (0 1 2 3 4 5 6 7) (16 16 1) simpleGrading (1 1 1) hex (0"),
    ("no number", "scale 1;", "scale one;"),
    ('#include "blockMeshDict"', "scale 1;", '#include "blockMeshDict"\nscale 1;'),
    ("is no list", "vertices", "corners"),
]


def changed(path, pairs):
    """The file with every text of the pairs replaced by the next; "" stands for the end."""
    text = path.read_text(encoding="latin-1")
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new) if old else text + new
    path.write_bytes(text.encode("latin-1"))


@pytest.fixture
def case(tmp_path):
    shutil.copytree(CAVITY, tmp_path / "case")
    return tmp_path / "case"


def written(field, folder):
    """The numbers that were written, after they were read back."""
    values = np.random.default_rng(1).standard_normal((2, 6, 8))
    field.write(folder, values)
    assert field.read(folder, (6, 8)).tobytes() == values.tobytes()
    return values


@pytest.mark.parametrize("name", SAME_FIELDS)
def test_the_state_is_the_last_entry_and_all_else_stays_exact(name, case):
    path = case / "0" / "U"
    changed(path, SAME_FIELDS[name])
    before = path.read_bytes()
    field = FoamField.of(path)
    values = written(field, case / "0")
    after = path.read_bytes()
    assert b"internalField" not in after[after.rindex(values[0, 0, :1].tobytes()) :]
    if b"List" not in before:
        assert after.replace(BINARY, b"", 1).startswith(before)


@pytest.mark.parametrize("refused", REFUSED_FIELDS, ids=lambda refused: refused[0])
def test_a_field_of_another_grammar_raises(refused, case):
    words, *pairs = refused
    changed(case / "0" / "U", pairs)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        FoamField.of(case / "0" / "U")
    assert "\n" not in str(caught.value)


def test_a_compressed_field_is_read_and_does_not_hide_the_state(case):
    path = case / "0" / "U"
    twin = path.with_name("U.gz")
    twin.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    written(FoamField.of(path), case / "0")
    assert path.is_file()
    assert not twin.exists()
    path.unlink()
    twin.write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"U\.gz cannot be read"):
        FoamField.of(path)


def test_the_folder_to_copy_is_named(case):
    (case / "0").rename(case / "0.orig")
    with pytest.raises(InputError, match=r"no text file.*copy .*0\.orig to .*0$"):
        FoamField.of(case / "0" / "U")


def test_lists_in_binary_raise(case):
    path = case / "0" / "U"
    written(FoamField.of(path), case / "0")
    with pytest.raises(InputError, match=r"binary format.*foamFormatConvert"):
        FoamField.of(path)


def test_an_answer_is_read_by_its_grammar(tmp_path):
    field, raw = FoamField("p", "volScalarField", b"", b""), np.arange(2.0).tobytes()
    head = 'FoamFile { format binary; class volScalarField; arch "LSB;label=32;scalar=64"; }\n'
    side = (
        b"boundaryField { a { value nonuniform List<scalar> 1(" + np.ones(1).tobytes() + b"); } }"
    )
    inner = b"internalField nonuniform List<scalar> 2(" + raw + b");"
    for content in (inner + side, side + inner, b"/* internalField uniform 7; */" + inner + side):
        (tmp_path / "p").write_bytes(head.encode() + content)
        assert field.read(tmp_path, (1, 2)).tolist() == [[[0, 1]]]
    (tmp_path / "p").write_text("FoamFile {}\ninternalField nonuniform List<scalar> 2(3 4e0);")
    assert field.read(tmp_path, (1, 2)).tolist() == [[[3, 4]]]
    for wrong in ("uniform (1 2 3)", "nonuniform List<vector> 2{(1 2 3)}", "uniform $x", "2"):
        (tmp_path / "p").write_text(f"FoamFile {{}}\ninternalField {wrong};")
        with pytest.raises(StepError, match="field p is no scalar for each"):
            field.read(tmp_path, (1, 2))


def test_the_last_time_is_the_greatest_number(tmp_path):
    field = FoamField("p", "volScalarField", b"FoamFile { class volScalarField; ", b"}\n")
    for name, value in {"0": 0, "1e-3": 1, "0.10": 2, "0.09": 3, "nan": 4, "0.2.bak": 5}.items():
        (tmp_path / name).mkdir()
        field.write(tmp_path / name, np.full((1, 1, 2), value))
    files = FoamFiles((field,), (1, 2))
    assert files.read(tmp_path).tolist() == [[[2, 2]]]
    shutil.rmtree(tmp_path / "0.10")
    assert files.read(tmp_path).tolist() == [[[3, 3]]]


@pytest.mark.parametrize("name", SAME_MESHES)
def test_the_same_mesh_in_other_words(name, case):
    changed(case / "system" / "blockMeshDict", SAME_MESHES[name])
    box = Box.of(case)
    assert (box.shape, box.extent, box.periodic) == ((16, 16), (1.0, 1.0), (False, False))
    (case / "system" / "blockMeshDict").write_bytes(box.dictionary((6, 8)))
    assert Box.of(case).shape == (6, 8)


@pytest.mark.parametrize("refused", REFUSED_MESHES, ids=lambda refused: refused[0])
def test_another_mesh_raises(refused, case):
    words, *pairs = refused
    changed(case / "system" / "blockMeshDict", pairs)
    with pytest.raises(InputError, match=rf"{re.escape(words)}.*one hex block") as caught:
        Box.of(case)
    assert "\n" not in str(caught.value)


def test_an_included_file_and_a_compressed_one(case):
    path = case / "system" / "blockMeshDict"
    changed(path, ("scale 1;", '#include "sizes"', "(16 16 1)", "($n 16 1)"))
    (path.parent / "sizes").write_text("n 8; scale 2;")
    path.with_name("blockMeshDict.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    box = Box.of(case)
    assert (box.shape, box.extent) == ((16, 8), (2.0, 2.0))
    assert b"(6 4 1) simpleGrading" in box.dictionary((4, 6))


WALLS = "walls { type wall; faces ((0 4 7 3) (2 6 5 1) (1 5 4 0)); }"
SIDES = {
    "x": "a { type cyclic; neighbourPatch b; faces ((0 4 7 3)); }"
    " b { type cyclic; neighbourPatch a; faces ((2 6 5 1)); } w { type wall; faces ((1 5 4 0)); }",
    "y": "w { type wall; faces ((0 4 7 3) (2 6 5 1)); }"
    " b { type cyclic; faces ((1 5 4 0)); neighbourPatch lid; /* type wall; */ }",
}


def cyclic(case, axis):
    pairs = [WALLS, SIDES[axis]]
    if axis == "y":
        pairs += ["lid { type wall;", "lid { type cyclic; neighbourPatch b;"]
    changed(case / "system" / "blockMeshDict", pairs)


@pytest.mark.parametrize(("axis", "periodic"), [("x", (False, True)), ("y", (True, False))])
def test_cyclic_sides_make_an_axis_periodic(axis, periodic, case):
    cyclic(case, axis)
    assert Box.of(case).periodic == periodic
    changed(case / "system" / "blockMeshDict", ("neighbourPatch b", "neighbourPatch w"))
    with pytest.raises(InputError, match=r"cyclic \w+ without its opposite side"):
        Box.of(case)


def solver_on(case, **options):
    return load_solver(
        "openfoam", {"case": str(case), "dt": 0.1, "shape": [6, 8], "substeps": 2, **options}
    )


@pytest.fixture(scope="module")
def plain():
    """A state, and what icoFoam makes of it in the case as it is."""
    draw = torch.Generator().manual_seed(0)
    state = 0.1 * torch.randn(1, 3, 6, 8, generator=draw, dtype=torch.float64)
    return state, solver_on(CAVITY).step(state)


@installed
@pytest.mark.parametrize("name", SAME_FIELDS)
def test_icofoam_answers_the_same_to_a_field_in_other_words(name, case, plain):
    state, answer = plain
    changed(case / "0" / "U", SAME_FIELDS[name])
    assert torch.equal(solver_on(case).step(state), answer)


@installed
@pytest.mark.parametrize("name", SAME_MESHES)
def test_icofoam_answers_the_same_on_a_mesh_in_other_words(name, case, plain):
    state, answer = plain
    changed(case / "system" / "blockMeshDict", SAME_MESHES[name])
    assert torch.equal(solver_on(case).step(state), answer)


@installed
def test_what_an_earlier_run_left_changes_nothing(case, plain):
    """The flux and the time that a run wrote beside its fields, compressed files, an include."""
    state, answer = plain
    first = solver_on(case).step(state)
    assert torch.equal(first, answer)
    (case / "0" / "uniform").mkdir()
    header = "FoamFile { version 2.0; format ascii; class dictionary; object time; }\n"
    (case / "0" / "uniform" / "time").write_text(
        header + 'value 0; name "0"; index 7; deltaT 1; deltaT0 1;'
    )
    (case / "0" / "phi").write_text(
        header.replace("dictionary", "surfaceScalarField")
        + "dimensions [0 3 -1 0 0 0 0]; internalField uniform 7;\nboundaryField {}"
    )
    (case / "0" / "sides").write_text("sides { type empty; }")
    changed(case / "0" / "U", ("sides { type empty; }", '#include "sides"'))
    changed(case / "system" / "controlDict", ("", "// endTime\nendTime 3; deltaT 1; // the end"))
    for path in (case / "0" / "U", case / "0" / "p", case / "system" / "controlDict"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert torch.equal(solver_on(case).step(state), answer)


@installed
def test_icofoam_on_a_periodic_channel_knows_no_place(case):
    """Moved along the periodic axis, the state moves the answer."""
    cyclic(case, "x")
    for name, value in (("U", "noSlip"), ("p", "zeroGradient")):
        both = "a { type cyclic; } b { type cyclic; } w {"
        changed(case / "0" / name, ("walls {", both))
        assert value in (case / "0" / name).read_text()
    solver = solver_on(case, fields=["U"])
    assert solver.grid.boundary == ("open", "periodic")
    draw = torch.Generator().manual_seed(0)
    state = 0.1 * torch.randn(1, 2, 6, 8, generator=draw, dtype=torch.float64)
    moved = solver.step(state.roll(3, -1))
    torch.testing.assert_close(moved, solver.step(state).roll(3, -1), rtol=0, atol=1e-8)


def test_a_case_that_does_not_take_the_state_raises(case, monkeypatch):
    """Before anything is run: here a field that keeps what the case says."""
    monkeypatch.setattr(FoamField, "write", lambda self, folder, values: None)
    with pytest.raises(InputError, match="case: got no field U in 0 after it was written"):
        solver_on(case)
    keep = b"FoamFile { class volVectorField; }\ninternalField uniform (1 0 0);\n"
    monkeypatch.setattr(
        FoamField, "write", lambda self, folder, values: (folder / self.name).write_bytes(keep)
    )
    with pytest.raises(InputError, match="other numbers after it was written"):
        solver_on(case, fields=["U"])


@installed
def test_a_control_dictionary_that_would_not_count_raises(case):
    changed(case / "system" / "controlDict", ("application", "#inputMode protect\napplication"))
    with pytest.raises(InputError, match=r"controlDict of .*#inputMode"):
        solver_on(case)
