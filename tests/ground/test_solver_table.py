"""A solver named by a table of settings."""

import pytest

from zopde import InputError, load_solver
from zopde.plugins import load_object

CLASSES = """
from zopde import Grid
from zopde.grid import as_grid

class Bare:
    def __init__(self, grid):
        self.grid = as_grid(grid)
    def step(self, state, forcing=None):
        return state

class Homely(Bare):
    def __init__(self, grid, home="."):
        super().__init__(grid)
        self.home = home
"""

TABLE = """
solver = "mine.py:{kind}"
[grid]
shape = [4, 6]
extent = [1.0, 1.5]
dt = 0.1
channels = ["a"]
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "mine.py").write_text(CLASSES)

    def write(kind, more=""):
        (tmp_path / "case.toml").write_text(more + TABLE.format(kind=kind))
        return str(tmp_path / "case.toml")

    return write


def test_a_table_names_a_class_beside_it_and_its_options(table, tmp_path, monkeypatch):
    spec = table("Homely")
    monkeypatch.chdir("/")
    solver = load_solver(spec)
    assert solver.grid.shape == (4, 6)
    assert solver.home == str(tmp_path)
    assert load_solver(table("Bare")).grid.extent == (1.0, 1.5)


def test_options_go_before_the_table(table):
    solver = load_solver(table("Homely"), {"home": "/there", "grid": {"dt": 0.5}})
    assert (solver.home, solver.grid.dt, solver.grid.shape) == ("/there", 0.5, (4, 6))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("hme = 3\n", "hme.*did you mean 'home'"),
        ("solver = 3\n", "readable TOML"),
        ("= 3\n", "readable TOML"),
    ],
)
def test_a_wrong_table_raises(table, more, words):
    with pytest.raises(InputError, match=words):
        load_solver(table("Homely", more))


def test_a_table_without_a_solver_raises(tmp_path):
    (tmp_path / "case.toml").write_text("dt = 1.0")
    with pytest.raises(InputError, match="a key `solver`"):
        load_solver(str(tmp_path / "case.toml"))
    with pytest.raises(InputError, match="no_such"):
        load_solver(str(tmp_path / "no_such.toml"))


def test_a_users_function_is_found(tmp_path):
    (tmp_path / "io.py").write_text("def read(folder):\n    return folder")
    assert load_object("io.py:read", tmp_path)(3) == 3
    for spec, words in (("io.py:raed", "did you mean 'read'"), ("io.py", "file.py:name")):
        with pytest.raises(InputError, match=words):
            load_object(spec, tmp_path)
