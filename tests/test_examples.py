"""Every example runs and ends with its golden number."""

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from zopde import load_solver

EXAMPLES = Path(__file__).parent.parent / "examples"


def loaded(name):
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks its annotations up
    spec.loader.exec_module(module)
    return module


def run(name, *arguments):
    return loaded(name).main(*arguments)


def plugged_in(name):
    """The coarse model of an example, as its own run names it."""
    function, grid = f"{EXAMPLES / name}:advance", loaded(name).GRID
    return load_solver("callable", {"function": function, "grid": grid})


def test_your_solver_golden():
    """Made by this example on 2026-11-22; the spread over thread counts and CPUs is far less."""
    errors = run("01_your_solver.py")
    assert errors["SRC"] == pytest.approx(0.0190, abs=2e-4)
    assert errors["ZO-weights"] == pytest.approx(0.0030, abs=4e-4)


def test_burgers_golden():
    """Made by this example on 2026-11-23 with PhiFlow 3.4.0."""
    errors = run("02_burgers.py")
    assert errors["SRC"] == pytest.approx(0.1675, abs=5e-4)
    assert errors["NON"] == pytest.approx(0.1551, abs=2e-3)
    assert errors["ZO-interface"] == pytest.approx(0.1468, abs=2e-3)
    assert errors["ZO-interface"] == pytest.approx(errors["SOL"], rel=2e-3)


def test_inject_forcing_golden():
    """Made by this example on 2026-11-23 with PhiFlow 3.4.0."""
    errors = run("03_inject_forcing.py")
    assert errors["SRC"] == pytest.approx(0.0737, abs=3e-4)
    assert errors["ZO-interface"] == pytest.approx(0.0196, abs=1e-3)
    assert errors["ZO-interface"] == pytest.approx(errors["SOL"], rel=1e-2)


@pytest.mark.skipif(shutil.which("icoFoam") is None, reason="OpenFOAM is not installed")
def test_openfoam_golden(tmp_path):
    """Made by this example on 2026-11-23 with OpenFOAM v1912; two runs side by side."""
    errors = run("05_openfoam.py", tmp_path)
    assert errors["SRC"] == pytest.approx(0.0314, abs=2e-4)
    assert errors["NON"] == pytest.approx(0.0118, abs=8e-4)
    assert errors["ZO-interface"] == pytest.approx(0.0125, abs=8e-4)
    assert (tmp_path / "openfoam.png").exists()


@pytest.mark.skipif(shutil.which("gfortran") is None, reason="no gfortran here")
def test_fortran_golden(tmp_path):
    """Made by this example on 2026-11-23 with gfortran 12; one thread."""
    found = run("06_fortran.py", tmp_path)
    assert found["equal bits"] == 1.0
    for way in ("command", "pipe", "ctypes"):
        assert found[f"ms a step, {way}"] > 0
        assert found[f"s a gradient, coloured, {way}"] < found[f"s a gradient, weights, {way}"]
    assert found["SRC"] == pytest.approx(0.01543, abs=1e-4)
    assert found["ZO-interface"] == pytest.approx(0.00245, abs=3e-4)


def test_fipy_golden():
    """Made by this example on 2026-11-23 with FiPy 4.0.3 and SciPy's solvers."""
    pytest.importorskip("fipy")
    errors = run("07_fipy.py")
    assert errors["SRC"] == pytest.approx(0.00909, abs=1e-4)
    assert errors["ZO-interface"] == pytest.approx(0.00272, abs=3e-4)


@pytest.mark.slow
def test_viscosity_golden(tmp_path):
    """Made by this example on 2026-11-29: from half of the viscosity wrong to two hundredths."""
    errors = run("11_viscosity.py", tmp_path)
    assert errors["SRC"] == pytest.approx(0.499, abs=2e-3)
    assert errors["ZO-interface"] < 0.03


def test_lorenz96_golden():
    """Made by this example on 2026-11-30: a drag that is wrong by a quarter, to a thousandth."""
    assert loaded("14_lorenz96.py").main(0, names=("drag",))["drag"] < 5e-3


@pytest.mark.slow
def test_forcings_of_lorenz96_golden():
    """Made by this example on 2026-11-30."""
    worst = run("14_lorenz96.py", 0)
    assert worst["F, 1 weight"] < 1e-2
    assert worst["F[k], 40 weights"] < 2e-2
    assert worst["F(x), 61 weights"] < 3e-2


@pytest.mark.parametrize(
    ("hide", "name", "arguments"),
    [
        ("shutil.which", "05_openfoam.py", [Path("nowhere")]),
        ("shutil.which", "06_fortran.py", [Path("nowhere")]),
        ("importlib.util.find_spec", "07_fipy.py", []),
        ("importlib.util.find_spec", "12_pypde.py", [[0]]),
        ("importlib.util.find_spec", "13_quasi_geostrophic.py", [[0]]),
    ],
)
def test_what_is_absent_is_said_in_one_line(hide, name, arguments, monkeypatch, capsys):
    monkeypatch.setattr(hide, lambda _: None)
    assert run(name, *arguments) == {}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("skipped: ")
    assert "install" in line


def test_pypde_turns_a_uniform_wave():
    """Of amplitude 1 it is a solution: its phase advances by 0.8 a unit of time."""
    pytest.importorskip("pde")
    solver = plugged_in("12_pypde.py")
    uniform = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, *solver.grid.state_shape)
    turned = solver.step(uniform)
    assert torch.allclose(turned[0, 0], torch.tensor(0.32).cos(), atol=1e-4)
    assert torch.allclose(turned[0, 1], torch.tensor(0.32).sin(), atol=1e-4)


def test_quasi_geostrophic_keeps_the_mean_vorticity():
    """Nothing but the mean: eddies of 1e-5 / s move within a day."""
    pytest.importorskip("pyqg_jax")
    solver = plugged_in("13_quasi_geostrophic.py")
    y, x = torch.meshgrid(*(torch.arange(32.0) * 2 * torch.pi / 32,) * 2, indexing="ij")
    eddies = torch.stack([(3 * x).sin() + (2 * y).cos(), 0.1 + 0.2 * (2 * x + y).sin()])[None]
    after = solver.step(eddies)
    assert torch.allclose(after.mean((2, 3)), eddies.mean((2, 3)), atol=1e-5)
    assert (after - eddies).abs().mean() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "needs", "source", "non", "measured", "apart"),
    [
        ("12_pypde.py", "pde", 0.1441, 0.0690, 0.0488, 5e-3),
        ("13_quasi_geostrophic.py", "pyqg_jax", 0.1875, 0.2607, 0.1702, 0.01),
    ],
)
def test_packages_golden(name, needs, source, non, measured, apart):
    """Made on 2026-11-29 with py-pde 0.59.0, pyqg-jax 0.8.1 and JAX 0.10.2, one thread."""
    pytest.importorskip(needs)
    found = run(name, [0])
    error, steps = ({label: row[i] for label, row in found.items()} for i in (0, 2))
    assert error["SRC"] == pytest.approx(source, abs=2e-3)
    assert error["NON"] == pytest.approx(non, abs=2 * apart)
    assert error["ZO-interface"] == pytest.approx(measured, abs=apart)
    assert error["ID"] > error["ZO-interface"]
    assert steps["NOG, longer"] == pytest.approx(steps["ZO-interface"], abs=7)
    looks = 30 + 2 * 16  # at the derivative, and at the gradient's noise
    assert steps["ZO-interface"] <= 150 * 14 + 1280 + 2 + looks


def test_wake_golden():
    """Made by this example on 2026-11-23, one thread; trainings end apart by a few per cent."""
    found = run("04_wake.py")
    error = {label: value["mean"] for label, value in found["mae"].items()}
    assert error["SRC"] == pytest.approx(0.0308, abs=3e-4)
    assert error["ZO-interface"] == pytest.approx(0.0230, abs=15e-4)
    assert error["ZO-interface"] == pytest.approx(error["SOL"], rel=0.03)
    assert error["NON"] > 1.2 * error["ZO-interface"]
    assert found["solver_steps"]["ZO-interface"] == 100 * 2 * 11 + 6 * 1024


def test_defence_golden():
    """Made by this example on 2026-11-26, one thread; of 60 images, so a point is 1.7 %."""
    found = run("08_defence.py")
    assert found["none"] == pytest.approx(55.0, abs=2)
    assert found["MSE"] == pytest.approx(43.3, abs=5)
    assert found["ZO-DS"] == pytest.approx(56.7, abs=5)
    assert found["DeepZero"] == pytest.approx(45.0, abs=5)
    assert 57_000 < found["queries of DeepZero"] <= 60_000
    assert 0.1 < found["radius of one image"] < 0.4


def test_classify_golden():
    """Made by this example on 2026-11-26, one thread; what differs elsewhere is round-off's."""
    found = run("09_classify.py")
    right = {name: percent for name, (percent, _) in found.items()}
    assert right["FO"] == pytest.approx(66.3, abs=4)
    assert right["CGE"] == pytest.approx(right["FO"], abs=6)
    for name in ("CGE, a tenth", "RGE"):
        assert 20 < right[name] < right["CGE"] - 15
    updates = 6 * 23
    queries = {name: count for name, (_, count) in found.items()}
    assert queries["FO"] == updates
    assert queries["CGE"] == updates * (274 + 2)
    assert queries["CGE, a tenth"] == queries["RGE"] == updates * (27 + 2)


def test_notebook_golden(tmp_path):
    """Made by this notebook on 2026-11-30; the cells run in a kernel of their own."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "15_own_loop.ipynb", 4)
    kept = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    done = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [cell.outputs for cell in done.cells if cell.cell_type == "code"]
    pictures = [sum("image/png" in o.get("data", {}) for o in cell) for cell in outputs]
    assert pictures == [sum("image/png" in o.get("data", {}) for o in cell) for cell in kept]
    assert sum(pictures) == 3
    shown = "".join(o.get("text", "") for cell in outputs for o in cell)
    errors = dict(re.findall(r"^(SRC|ID|ZO-interface) +([0-9.]+), ", shown, re.MULTILINE))
    assert float(errors["SRC"]) == pytest.approx(0.0198, abs=1e-4)
    assert float(errors["ID"]) == pytest.approx(0.0020, abs=4e-4)
    assert float(errors["ZO-interface"]) == pytest.approx(0.0012, abs=4e-4)
    assert "ZO-interface, seed 0: 100/100" in shown, "a notebook sees how far a run is"


def test_engine_golden(capsys):
    """Made by this example on 2026-11-26."""
    found = run("10_engine.py")
    assert "nobody knows this derivative" in capsys.readouterr().out
    assert found["before"] == pytest.approx(0.5803, abs=1e-4)
    assert found["after"] == pytest.approx(0.133, abs=0.02)
    assert found["queries"] == 120 * (94 + 1)


def test_examples_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert 60 <= len(path.read_text().splitlines()) <= 120, path
