"""The house plan, enforced: who imports whom, how long a file is, what is public."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

import zopde

ROOT = Path(__file__).parent.parent
GROUND = {
    "cells",
    "domain",
    "errors",
    "grid",
    "mesh",
    "contracts",
    "validate",
    "plugins",
    "seeding",
    "progress",
    "memory",
    "child",
    "session",
    "doctor",
    "files",
    "netcdf",
    "timing",
    "numerals",
    "identity",
}
THIRD_PARTY = {
    "ground": {"torch", "numpy", "scipy", "jaxtyping", "xarray", "h5netcdf", "rich"},
    "zo": {"torch", "jaxtyping", "scipy"},
    "oracle": {"torch", "jaxtyping"},
    "check": {"torch", "jaxtyping", "scipy"},
    "interface": {"torch", "numpy", "scipy", "jaxtyping"},
    "sparsity": {"torch", "jaxtyping"},
    "blackbox": {"torch", "jaxtyping"},
    "hybrid": {"torch", "jaxtyping"},
    "smoothing": {"torch", "jaxtyping", "scipy"},
    "nets": {"torch", "jaxtyping"},
    "data": {"torch", "numpy", "jaxtyping", "xarray", "PIL", "h5py"},
    "training": {"torch", "jaxtyping", "trackio"},
    "tangent": {"torch", "jaxtyping"},
    "report": {"torch", "numpy", "jaxtyping", "matplotlib", "PIL", "meshio"},
    "studies": {
        *("torch", "numpy", "safetensors", "jaxtyping", "distributed", "msgspec", "tomli_w"),
        *("onnxruntime", "matplotlib"),
    },
    "solvers": {"torch", "numpy", "scipy", "xarray", "jaxtyping", "phi", "phiml", "tesseract_core"},
    "cli": {"typer", "rich"},
}
ROOMS = {
    "ground": set(),
    "zo": set(),
    "oracle": {"zo"},
    "check": {"zo", "oracle"},
    "interface": {"zo", "oracle"},
    "sparsity": {"zo", "oracle"},
    "blackbox": set(),
    "hybrid": set(),
    "smoothing": set(),
    "nets": set(),
    "data": set(),
    "training": {"zo", "oracle", "interface", "sparsity"},
    "tangent": {"zo", "oracle", "interface", "blackbox", "training"},
    "report": set(),
    "studies": {
        *("zo", "oracle", "check", "interface", "sparsity", "blackbox", "hybrid", "smoothing"),
        *("nets", "data", "training", "tangent", "report"),
    },
    "solvers": set(),
    "cli": {"studies", "data", "blackbox"},
}
STANDARD = set(sys.stdlib_module_names)


def sources():
    for folder in ("zopde", "solvers", "cli"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def room_of(path):
    first, *rest = path.relative_to(ROOT).parts
    if first != "zopde":
        return first
    return rest[0] if len(rest) > 1 else "ground"


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (
                f"{node.module}.{alias.name}" if node.module == "zopde" else node.module
                for alias in node.names
            )


@pytest.mark.parametrize("path", list(sources()), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_room_may(path):
    if path == ROOT / "zopde" / "__init__.py":
        return  # the front door names every room
    room = room_of(path)
    for name in imports_of(path):
        package, _, rest = name.partition(".")
        if package != "zopde":
            assert package in STANDARD | THIRD_PARTY[room], f"{room} may not import {package}"
            continue
        other = rest.partition(".")[0]
        allowed = other in GROUND | ROOMS[room] | {room, "__version__"}
        assert allowed, f"{room} may not import zopde.{other}"


def functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))


def code_lines(node):
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("folder", ["zopde", "solvers", "cli", "tests", "examples", "benchmarks"])
def test_files_and_functions_are_short(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        assert len(path.read_text().splitlines()) <= 400, path
        for node in functions(path):
            assert code_lines(node) <= 60, f"{path}: {node.name}"


def test_only_the_console_and_the_watcher_print():
    for path in sources():
        if path.name not in ("console.py", "progress.py"):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not [c for c in calls if getattr(c.func, "id", "") == "print"], path


def test_every_folder_is_a_package_of_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in ROOT.joinpath("zopde").rglob("__init__.py")
    }
    assert set(settings["packages"]) == folders | {"zopde.solvers", "zopde.cli"}


HIDDEN = {"zopde.zo.cge", "zopde.zo.rge"}  # modules behind the function of their name


def test_no_name_of_a_room_hides_a_module():
    """`import zopde.room.name` must give the module."""
    for module in modules():
        for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
            name = f"{module.__name__}.{info.name}"
            found = getattr(module, info.name, None)
            assert found is None or inspect.ismodule(found) or name in HIDDEN, name


ROOMS_AT_THE_TOP = """
zo oracle check interface sparsity training tangent hybrid blackbox nets data smoothing
"""
AT_THE_TOP = """
InputError SolverError Grid Mesh Solver Scenario Window load_solver cge rge WeightOracle
ExecutorOracle WorkerPool selfcheck InterfaceSolver ColouredPullback DensePullback BankPullback
RandomPullback IdentityPullback CorrectedPullback RegressedPullback CorrectedSolver
UnrolledObjective rollout rollout_error differentiable downsample BlackBox OneAtATime Retrying
Dropping ConvCorrector
GraphCorrector ResidualCorrector Normalised Trajectories simulate save_trajectories
load_trajectories load_images Smooth load_config run_correction load_corrector check_solver
load_classification run_classification load_classifier load_defence run_defence load_defended
CertifyConfig run_certification write_report draw_figures
"""


def test_public_names_are_frozen():
    listed = f"__version__ {ROOMS_AT_THE_TOP} {AT_THE_TOP}".split()
    assert sorted(zopde.__all__) == sorted(listed)
    for name in zopde.__all__:
        assert getattr(zopde, name) is not None
    with pytest.raises(AttributeError):
        _ = zopde.no_such_name


def modules():
    yield zopde
    for info in pkgutil.walk_packages(zopde.__path__, "zopde."):
        yield importlib.import_module(info.name)
    for room in ("solvers", "cli"):
        for path in sorted((ROOT / room).glob("*.py")):
            if path.stem != "__init__":
                yield importlib.import_module(f"zopde.{room}.{path.stem}")


def test_docstring_examples_are_right():
    tried = 0
    for module in modules():
        result = doctest.testmod(module)
        assert result.failed == 0, module.__name__
        tried += result.attempted
    assert tried >= 4


def public_things():
    """(path, thing) of every public name: those that a room, or a file of the ground, lists."""
    for module in modules():
        for name in getattr(module, "__all__", ()) if module is not zopde else ():
            yield f"{module.__name__}.{name}", getattr(module, name)


comments_at_fields = runpy.run_path(str(ROOT / "docs/docstrings.py"))["comments_at_fields"]


def described(thing, things):
    """A docstring, the comments at fields, and the docstrings of names whose arguments it takes."""
    doc = inspect.getdoc(thing)
    yield doc
    if inspect.isclass(thing):
        comments = comments_at_fields(inspect.getsource(thing))
        yield from (f"{field}: {comment}" for field, comment in comments.items())
    for sentence in re.findall(r"[Aa]rguments (?:and errors )?are those of ([^.]*)", doc):
        for name in re.findall(r"`(\w+)`", sentence):
            yield inspect.getdoc(things.get(name, thing))


def test_public_docstrings_describe_their_arguments():
    things = {name.rpartition(".")[2]: thing for name, thing in public_things()}
    for name, thing in things.items():
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue  # a table or a type: tests/test_docs.py
        assert inspect.getdoc(thing), name
        own = inspect.isfunction(thing) or "__init__" in vars(thing)
        if own and not getattr(thing, "_is_protocol", False):
            doc = "\n".join(described(thing, things))
            parameters = inspect.signature(thing).parameters
            missing = [p for p in parameters if not re.search(rf"\b{p}\b", doc)]
            assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize("folder", ["examples", "benchmarks", "docs/files"])
def test_what_users_copy_imports_public_names_only(folder):
    for path in sorted((ROOT / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "zopde":
                public = getattr(importlib.import_module(node.module), "__all__", ())
                for alias in node.names:
                    assert alias.name in public, f"{path}: {node.module}.{alias.name}"
