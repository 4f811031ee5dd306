"""The page about leaving: its commands, its snippets and its two programs, run in order."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zopde import CorrectedSolver, load_config, load_corrector, load_solver, rollout, run_correction

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "howto" / "export.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)

# Of torch itself: its C++ goes on to read these files
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the files of the page, and a run of the tracer."""
    home = tmp_path_factory.mktemp("page")
    for name in ("corrector.cpp", "corrected.f90", "tracer.py", "data.py"):
        shutil.copy(DOCS / "files" / name, home)
    subprocess.run([sys.executable, "data.py"], cwd=home, check=True)
    changes = ["data.train=3", "data.test=1", "data.coarse=[16,16]", f"data.path={home}/mine.nc"]
    changes += ['run.labels=["SRC","NON"]', 'non.length="60 iterations"', "training.unroll=2"]
    changes += ['training.length="1 iteration"', "corrector.sizes={width=3,depth=2}"]
    tables = {"solver": {"spec": f"{home / 'tracer.py'}:Tracer"}}
    run_correction(load_config("quick", None, changes, tables), home / "run")
    return home


def ran(text, home):
    """The lines of a shell, as a user types them."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = ["bash", "-euo", "pipefail", "-c", text]
    return subprocess.run(
        words,
        cwd=home,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_commands_and_snippets_run(home, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (_, commands), (_, by_onnx), (_, by_torch), _ = BLOCKS
    assert ran(commands, home).count("its answers differ from the network") == 2
    monkeypatch.chdir(home)
    answers = []
    for code in (by_onnx, by_torch):
        found = {}
        exec(code, found)
        answers.append(torch.as_tensor(found["correction"]))
    assert answers[0].shape == (5, 1, 16, 16)
    torch.testing.assert_close(*answers, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_fortran_ends_where_python_does(home):
    """Ten corrected steps of one solver, written once in each language."""
    if any(shutil.which(name) is None for name in ("g++", "gfortran", "bash")):
        pytest.skip("no g++ or gfortran here")
    if not (Path(torch.__path__[0]) / "include/torch/script.h").exists():
        pytest.skip("this torch comes without headers")
    ran("zopde export run --to corrector.pt --overwrite", home)
    said = ran(BLOCKS[-1][1], home)
    state = torch.frombuffer(bytearray((home / "state.bin").read_bytes()), dtype=torch.float32)
    centre = torch.arange(1.0, 17.0)
    away = (centre[:, None] - 8.5) ** 2 + (centre - 6.5) ** 2
    start = torch.exp(-away / 6)[None, None]
    solver, network = load_solver(f"{home / 'tracer.py'}:Tracer"), load_corrector(home / "run")
    corrected, plain = (
        rollout(one, start, 10)[0, -1, 0] for one in (CorrectedSolver(solver, network), solver)
    )
    torch.testing.assert_close(state.view(16, 16), corrected, atol=1e-5, rtol=1e-5)
    assert (corrected - plain).abs().max() > 0.01  # the network has done something
    assert f"{float(corrected.max()):.5f}"[:6] in said
