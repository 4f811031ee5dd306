"""What decides the numbers is compared when a run goes on, and when reference data are reused."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zopde import (
    InputError,
    Trajectories,
    load_config,
    load_solver,
    load_trajectories,
    run_correction,
    save_trajectories,
)
from zopde.identity import content_of, solver_identity
from zopde.progress import Silent
from zopde.studies.correct.open import open_solver, reference_of
from zopde.studies.correct.study import STUDY

SMALL = [
    *("data.coarse=[4,4]", "data.fine=[8,8]", "data.train=1", "data.test=1", "data.steps=3"),
    *("data.skip=1", "training.unroll=2", 'run.labels=["SRC"]'),
    "corrector.sizes={width=3,depth=2}",
]
SOLVER = """
import torch
from zopde import Grid, Scenario
from factor import FACTOR

class Decay:
    def __init__(self, cells=4):
        self.factor = FACTOR if cells == 8 else 1.1 * FACTOR
        self.grid = Grid((cells, cells), (1.0, 1.0), dt=0.1, channels=("a",))
    def step(self, state, forcing=None):
        return self.factor * state

class Own(Decay):
    @property
    def options(self):
        return {}
    def at(self, shape):
        return Own(shape[0])
    def scenario(self, simulations, generator):
        return Scenario(torch.randn(simulations, 1, 8, 8, generator=generator))
"""
GRID = '[grid]\nshape = [4, 4]\nextent = [1.0, 1.0]\ndt = 0.1\nchannels = ["a"]\n'
PROGRAM = "#!/bin/sh\ncp state.npy answer.npy\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with solvers of several kinds, and data."""
    folder = tmp_path / "a"
    (folder / "case").mkdir(parents=True)
    (folder / "solver.py").write_text(SOLVER)
    (folder / "factor.py").write_text("FACTOR = 0.5\n")
    (folder / "helper.py").write_text("HALF = 0.5\n")
    (folder / "function.py").write_text("import helper\n\ndef f(u):\n    return helper.HALF * u\n")
    table = f'solver = "callable"\nfunction = "function.py:f"\n{GRID}'
    (folder / "function.toml").write_text(table)
    (folder / "case" / "program.sh").write_text(PROGRAM)
    (folder / "case" / "program.sh").chmod(0o755)
    (folder / "case" / "numbers.txt").write_text("0.5\n")
    command = 'solver = "command"\ncommand = ["./program.sh"]\n'
    (folder / "command.toml").write_text(f'{command}template = "case"\n{GRID}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a solver's folder is added to it
    yield folder
    for name in [name for name in sys.modules if name in ("helper", "factor", "function")]:
        del sys.modules[name]


def started(home, spec, progress=None):
    solver = load_solver(f"{home}/{spec}")
    states = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    data = torch.stack([states * 0.6**k for k in range(4)], dim=1)
    save_trajectories(Trajectories(solver.grid, data), home / "mine.nc")
    config = settings(home, spec)
    run_correction(config, home / "run", progress=progress)
    return config


def settings(home, spec, **options):
    tables = {"solver": {"spec": f"{home}/{spec}", "options": options}}
    return load_config("quick", None, [*SMALL, f'data.path="{home}/mine.nc"'], tables)


def test_a_run_goes_on_with_the_same_solver_alone(home):
    started(home, "function.toml")
    moved = home.rename(home.with_name("b"))
    run_correction(settings(moved, "function.toml"), moved / "run", resume=True)
    with (moved / "helper.py").open("a") as file:
        file.write("# edited\n")
    with pytest.raises(InputError, match="got other numbers than the run was started with"):
        run_correction(settings(moved, "function.toml"), moved / "run", resume=True)


@pytest.mark.parametrize(
    ("spec", "edited"),
    [
        ("function.toml", "function.toml"),
        ("function.toml", "function.py"),
        ("function.toml", "helper.py"),
        ("solver.py:Decay", "solver.py"),
        ("solver.py:Decay", "factor.py"),
        ("command.toml", "case/program.sh"),
        ("command.toml", "case/numbers.txt"),
        ("command.toml", "command.toml"),
    ],
)
def test_all_that_a_solver_is_made_of_is_in_its_identity(spec, edited, home):
    def identity(folder):
        where, solver = f"{folder}/{spec}", load_solver(f"{folder}/{spec}")
        return solver_identity(where, {}, solver, content_of(where, {}, solver))

    first = identity(home)
    (home / "run.log").write_text("a log")
    other = Path(shutil.copytree(home, home.with_name("b")))
    assert identity(home) == identity(other) == first
    with (other / edited).open("a") as file:
        file.write("# edited\n")
    assert identity(other) != first
    assert identity(home) == first


def test_options_that_name_files_are_known_by_their_content(home):
    def identity(folder):
        grid = {"shape": [4, 4], "extent": [1.0, 1.0], "dt": 0.1, "channels": ["a"]}
        program = folder / "case" / "program.sh"
        options = {"command": [str(program)], "grid": grid, "home": str(folder)}
        solver = load_solver("command", options)
        return solver_identity("command", options, solver, content_of("command", options, solver))

    first = identity(home)
    other = Path(shutil.copytree(home, home.with_name("b")))
    assert identity(other) == first
    (other / "case" / "program.sh").write_text(PROGRAM + "# edited\n")
    assert identity(other) != first


def test_reference_data_of_other_code_stay_and_new_ones_are_made_beside(home):
    def note(folder, **tables):
        told = []
        tables = {"solver": {"spec": f"{folder}/solver.py:Own"}, **tables}
        config = load_config("quick", None, SMALL, tables)
        reference = reference_of(config, open_solver(config), folder)
        progress = Silent()
        progress.note = told.append
        reference.load_or_make(progress)
        return " ".join(told)

    assert "made" in note(home)
    (data,) = home.glob("*.nc")
    content = data.read_bytes()
    moved = home.rename(home.with_name("b"))
    assert "made" not in note(moved), "the same code elsewhere"
    (moved / "factor.py").write_text("FACTOR = 0.25\n")
    del sys.modules["factor"]
    (moved / "solver.py").write_text(SOLVER + "\n")
    assert "made" in note(moved)
    old, new = sorted(moved.glob("*.nc"), key=lambda path: len(path.name))
    assert old.read_bytes() == content
    assert load_data(new)[0, 1].allclose(0.25 * load_data(new)[0, 0])
    with pytest.raises(InputError, match=r"other code than the solver's of now.*with --data"):
        note(moved, data={"path": str(old)})
    assert "made" not in note(moved), "those beside are found again"


def test_reference_data_of_an_earlier_version_are_told(home):
    config = load_config("quick", None, SMALL, {"solver": {"spec": f"{home}/solver.py:Own"}})
    reference, told, progress = reference_of(config, open_solver(config), home), [], Silent()
    reference.load_or_make(progress)
    made = load_trajectories(reference.path, reference.solver.grid)
    early = {key: value for key, value in made.settings.items() if key != "content"}
    save_trajectories(replace(made, settings=early), reference.path)
    progress.note = told.append
    reference_of(config, open_solver(config), home).load_or_make(progress)
    assert "which code of the solver made them is not known" in told[0]


LATE = """
import importlib
from zopde import Grid

class Decay:
    grid = Grid((4, 4), (1.0, 1.0), dt=0.1, channels=("a",))
    def step(self, state, forcing=None):
        return importlib.import_module("half").HALF * state
"""


def test_what_a_solver_imports_in_a_step_is_compared(home, monkeypatch):
    monkeypatch.delitem(sys.modules, "half", raising=False)
    (home / "late.py").write_text(LATE)
    (home / "half.py").write_text("HALF = 0.5\n")
    told, progress = [], Silent()
    progress.note = told.append
    config = started(home, "late.py:Decay", progress)
    assert sum("imports half.py in a step" in text for text in told) == 1
    run_correction(config, home / "run", resume=True)  # it is loaded, and known to be late
    (home / "half.py").write_text("HALF = 0.25\n")
    command = [sys.executable, "-m", "zopde.cli.app", "correct", "--config"]
    command += [
        str(home / "run" / "config.toml"),
        f"{home}/late.py:Decay",
        "--out",
        str(home / "run"),
        "--resume",
    ]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "what solver" in again.stderr
    assert "got other numbers than the run was started with" in " ".join(again.stderr.split())
    with pytest.raises(InputError, match=r"late.py:Decay' imports in a step: got other numbers"):
        run_correction(config, home / "run", resume=True)


def load_data(path):
    return load_trajectories(path, load_solver(f"{path.parent}/solver.py:Own").grid).states


def test_a_run_that_this_version_cannot_read_is_told_as_one(home):
    config = started(home, "function.toml")
    record = home / "run" / "config.toml"
    record.write_text(record.read_text().replace('"fitted"', '"interpolated"'))
    for how in ({"resume": True}, {}):
        with pytest.raises(InputError, match=r"a run that this version cannot read.*lookup"):
            run_correction(config, home / "run", **how)
    run_correction(config, home / "run", overwrite=True)


def test_a_record_is_read_once_and_written_once(home, monkeypatch):
    from zopde.studies import folder

    config = started(home, "function.toml")
    before = {p: p.stat().st_mtime_ns for p in (home / "run").glob("*.[ds]*") if p.is_file()}
    read = []
    original = folder.read_record
    monkeypatch.setattr(folder, "read_record", lambda *a: read.append(a) or original(*a))
    run_correction(config, home / "run", resume=True)
    assert len(read) == 1
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert {"data.sha256", "solver.digest"} <= {path.name for path in before}
    assert {"data.sha256", "solver.digest"} <= set(STUDY.files)
