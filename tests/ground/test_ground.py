import os
import pickle
import sys
from pathlib import Path

import pytest
import torch

from zopde import Grid, InputError, OneAtATime, SolverError, load_solver
from zopde.errors import Failure
from zopde.grid import as_grid, check_forcing, check_state
from zopde.plugins import find_solvers, import_user_files, load_object, user_files
from zopde.seeding import generator
from zopde.validate import check_positive, check_share


def grid(**changes):
    given = {"shape": (4, 6), "extent": (2.0, 3.0), "dt": 0.1, "channels": ("u",)}
    return Grid(**{**given, **changes})


def test_grid_geometry_exact():
    g = grid()
    assert g.spacing == (0.5, 0.5)
    assert g.centres(0) == [0.25, 0.75, 1.25, 1.75]
    assert g.state_shape == (1, 4, 6)
    assert g.with_shape((8, 12)).spacing == (0.25, 0.25)


@pytest.mark.parametrize(
    "changes",
    [
        *({"dt": 0.0}, {"shape": (4,)}, {"shape": (0, 6)}, {"shape": (4, 6.5)}),
        *({"extent": (1.0, length)} for length in (-1.0, 0.0, 1e-300, 1e300)),
    ],
)
def test_grid_raises(changes):
    with pytest.raises(InputError):
        grid(**changes)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "a"])
def test_check_positive_raises(value):
    with pytest.raises(InputError, match="mu: got"):
        check_positive("mu", value)


@pytest.mark.parametrize("value", [1, -0.1, float("nan"), 1.5])
def test_check_share_raises(value):
    with pytest.raises(InputError, match=r"sparsity: got .*expected a number in \[0, 1\)"):
        check_share("sparsity", value)


def test_check_state_and_forcing_raise():
    g = grid(forcing_channels=("f",))
    check_state(g, torch.zeros(3, 1, 4, 6))
    with pytest.raises(InputError, match=r"shape \(3, 2, 4, 6\), expected \(batch, 1, 4, 6\)"):
        check_state(g, torch.zeros(3, 2, 4, 6))
    with pytest.raises(InputError, match="floating"):
        check_state(g, torch.zeros(3, 1, 4, 6, dtype=torch.int64))
    with pytest.raises(InputError, match="forcing: got None"):
        check_forcing(g, None, 3)
    with pytest.raises(InputError, match="batch 2, expected batch 3"):
        check_forcing(g, torch.zeros(2, 1, 4, 6), 3)
    with pytest.raises(InputError, match="takes none"):
        check_forcing(grid(), torch.zeros(3, 1, 4, 6), 3)


def test_generator_depends_on_every_key():
    def draw(*keys):
        return torch.rand(4, generator=generator(*keys)).tolist()

    assert draw(0, "mask", 3) == draw(0, "mask", 3)
    others = [draw(1, "mask", 3), draw(0, "order", 3), draw(0, "mask", 4)]
    assert all(draw(0, "mask", 3) != other for other in others)


def test_solver_by_file_and_options(toy_spec):
    assert load_solver(toy_spec, {"viscosity": 0.5}).viscosity == 0.5


def test_solver_by_import_string(tmp_path, monkeypatch, toy_spec):
    path = toy_spec.rpartition(":")[0]
    (tmp_path / "my_solver_module.py").write_text(Path(path).read_text())
    monkeypatch.chdir(tmp_path)
    assert load_solver("my_solver_module:Toy").grid.shape == (8, 8)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("burgrs", "did you mean 'burgers'"),
        ("nowhere.py:Toy", "existing Python file"),
        ("no_such_module:Toy", "No module named"),
        ("{file}:Toyy", "did you mean 'Toy'"),
        ("{file}:NotASolver", "expected an object with `grid"),
    ],
)
def test_unknown_solver_raises(toy_spec, spec, words):
    with pytest.raises(InputError, match=words):
        load_solver(spec.format(file=toy_spec.rpartition(":")[0]))


def test_unknown_option_raises(toy_spec):
    with pytest.raises(InputError, match="did you mean 'viscosity'"):
        load_solver(toy_spec, {"viscosty": 1.0})


def test_broken_solver_file_raises(tmp_path):
    (tmp_path / "broken.py").write_text("def (:\n")
    with pytest.raises(InputError, match="SyntaxError"):
        load_solver(f"{tmp_path / 'broken.py'}:Toy")


def test_burgers_is_found():
    assert "burgers" in [info.name for info in find_solvers()]


def test_one_at_a_time_agrees(toy):
    state, forcing = torch.randn(3, 2, 8, 8), torch.randn(3, 2, 8, 8)
    wrapped = OneAtATime(toy)
    torch.testing.assert_close(wrapped.step(state, forcing), toy.step(state, forcing))
    assert wrapped.grid is toy.grid


@pytest.mark.parametrize(
    ("code", "spec", "words"),
    [
        ("raise RuntimeError('licence server')", "Toy", "RuntimeError: licence server"),
        ("class Toy:\n    def __init__(self):\n        1 / 0", "Toy", "ZeroDivisionError"),
        ("class Toy:\n    def __init__(self, mesh): ...", "Toy", "missing 1 required"),
        ("Toy = 3", "Toy", "got a int, expected a class|did you mean"),
        ("", "", "package.module:Class"),
    ],
)
def test_broken_solver_code_raises_one_line(code, spec, words, tmp_path):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(InputError, match=words) as caught:
        load_solver(f"{tmp_path / 'mine.py'}:{spec}")
    assert "\n" not in str(caught.value)


def test_a_solver_file_hides_no_real_module(tmp_path, toy_spec):
    (tmp_path / "torch.py").write_text(Path(toy_spec.rpartition(":")[0]).read_text())
    load_solver(f"{tmp_path / 'torch.py'}:Toy").step(
        torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    )


def test_a_solver_file_finds_what_lies_beside_it(tmp_path, toy_spec, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])
    name = "neighbour_of_a_solver"
    (tmp_path / f"{name}.py").write_text(Path(toy_spec.rpartition(":")[0]).read_text())
    (tmp_path / "mine.py").write_text(f"from {name} import Toy\n")
    assert type(load_solver(f"{tmp_path / 'mine.py'}:Toy")).__module__ == name
    del sys.modules[name]


def test_a_solver_file_is_one_module_until_it_changes(tmp_path, toy_spec):
    file = tmp_path / "my_one.py"
    file.write_text("class Toy:\n    def __init__(self): raise ValueError('one')")
    for word in ("one", "one", "three"):
        file.write_text(file.read_text().replace("one", word))
        with pytest.raises(InputError, match=word):
            load_solver(f"{file}:Toy")
    first, second = load_solver(toy_spec), load_solver(toy_spec)
    assert type(first) is type(second)
    import_user_files(user_files())
    assert type(pickle.loads(pickle.dumps(first))) is type(first)
    os.utime(file, (1, 1))
    with pytest.raises(InputError, match="changed since it was loaded"):
        import_user_files([(str(file), 2)])


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path):
    made = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text(f"class Model:\n    where = {folder!r}\n")
        made.append(load_object("model.py:Model", tmp_path / folder)())
    messages = [pickle.dumps(one) for one in made]
    assert [pickle.loads(message).where for message in messages] == ["a", "b"]


def test_input_error_travels_whole():
    error = InputError("mu", got=[-1.0], expected="a number > 0", remedy="try 1e-3")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is InputError
    assert (str(again), again.what) == (str(error), "mu")


def test_a_grid_from_a_table_is_the_grid():
    table = {"shape": [4, 6], "extent": [1.0, 2.0], "dt": 0.1, "channels": ["u"]}
    made = as_grid(table)
    assert made == Grid(shape=(4, 6), extent=(1.0, 2.0), dt=0.1, channels=("u",))
    assert as_grid(made) is made


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"shape": [4]}, "no 'extent'"),
        ({"shap": [4]}, "shape"),
        ({"shape": 4, "extent": [1.0], "dt": 0.1, "channels": ["u"]}, "list"),
    ],
)
def test_a_table_that_is_no_grid_raises(table, message):
    with pytest.raises(InputError, match=message):
        as_grid(table)


def test_a_solver_error_keeps_what_failed_when_pickled():
    answers = torch.tensor([[1.0], [float("nan")]])
    error = SolverError("one of two runs failed", [Failure(1, "exit code 3", "/kept")], answers)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert copy.failures == (Failure(1, "exit code 3", "/kept"),)
    torch.testing.assert_close(copy.answers, answers, equal_nan=True)
