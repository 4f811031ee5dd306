"""Every example runs and ends with its golden number."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name):
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


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


def test_examples_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert 60 <= len(path.read_text().splitlines()) <= 120, path
