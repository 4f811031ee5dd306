"""Finding solvers: by entry point, by import string, by file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from zopde.checks import check_choice
from zopde.errors import InputError, first_line
from zopde.grid import Grid
from zopde.protocols import Solver

GROUP = "zopde.solvers"
_FILE_MODULE = "zopde_user_"
UserFile = tuple[str, int]  # path, and when it was written (ns)
_loaded: dict[str, UserFile] = {}  # by module name


@dataclass(frozen=True)
class SolverInfo:
    """One line about a solver that is installed.

    Args:
        name: What the command line calls it.
        target: Where it is defined, "package.module:Class".
        summary: First line of its docstring, or why it cannot be imported.
    """

    name: str
    target: str
    summary: str


def find_solvers() -> list[SolverInfo]:
    """Every solver announced under the entry-point group `zopde.solvers`, by name."""
    found = []
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        try:
            doc = inspect.getdoc(point.load()) or "no description"
            summary = doc.splitlines()[0]
        except Exception as error:  # one broken package must not hide the others
            summary = f"not importable: {first_line(error)}"
        found.append(SolverInfo(point.name, point.value, summary))
    return found


def load_solver(spec: str, options: Mapping[str, Any] | None = None) -> Solver:
    """Build the solver that `spec` names.

    Args:
        spec: An entry point ("burgers"), "package.module:Class" or "file.py:Class".
        options: Keyword arguments of the class.

    Returns:
        An instance with a `grid` and a `step`.

    Raises:
        InputError: If nothing of that name is found, it does not import, does not take
            the options, or is not a solver.
    """
    factory = _resolve(spec)
    given = dict(options or {})
    _check_options(spec, factory, given)
    try:
        solver = factory(**given)
    except InputError:
        raise
    except Exception as error:  # a user's constructor may raise anything
        raise InputError(
            f"solver {spec!r}",
            got=f"{type(error).__name__}: {first_line(error)}",
            expected="a class that builds from solver.options",
        ) from error
    if not (
        isinstance(getattr(solver, "grid", None), Grid) and callable(getattr(solver, "step", None))
    ):
        raise InputError(
            f"solver {spec!r}",
            got=type(solver).__name__,
            expected="an object with `grid: zopde.Grid` and `step(state, forcing=None)`",
        )
    checked: Solver = solver
    return checked


def user_files() -> tuple[UserFile, ...]:
    """The solver files loaded so far, for `import_user_files` in another process."""
    return tuple(_loaded.values())


def import_user_files(files: Iterable[UserFile]) -> None:
    """Load solver files that this process lacks, so that what they define can be unpickled.

    Args:
        files: From `user_files` of the process that pickles.

    Raises:
        InputError: If a file is not there, does not import, or was written anew since.
    """
    for path, written in files:
        _import(path, partial(_load_file, Path(path)))
        if Path(path).stat().st_mtime_ns != written:
            raise InputError(
                "solver file",
                got=f"{path}, changed since it was loaded",
                expected="one that stays the same while workers use it",
                remedy="start again",
            )


def load_class(spec: str) -> type:
    """The class that "package.module:Class" or "file.py:Class" names.

    Args:
        spec: The name; an entry point's names the solver's class.

    Raises:
        InputError: If nothing of that name is found, or it does not import.
    """
    found: type = _resolve(spec)
    return found


def _resolve(spec: str) -> Any:  # noqa: ANN401 - whatever the user's module holds
    module_name, colon, attribute = spec.rpartition(":")
    if colon and not (module_name and attribute):
        raise InputError("solver", got=repr(spec), expected="package.module:Class or file.py:Class")
    if not colon:
        points = {point.name: point for point in entry_points(group=GROUP)}
        check_choice("solver", spec, points)
        return _import(spec, points[spec].load)
    if module_name.endswith(".py"):
        module = _import(spec, lambda: _load_file(Path(module_name)))
    else:
        # A module beside the user's data must be found as it is by `python`.
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        module = _import(spec, lambda: importlib.import_module(module_name))
    if not hasattr(module, attribute):
        names = [n for n, v in vars(module).items() if inspect.isclass(v)]
        check_choice(f"class in {module_name}", attribute, names)
    factory = getattr(module, attribute)
    if not inspect.isclass(factory):
        kind = type(factory).__name__
        raise InputError(f"solver {spec!r}", got=f"a {kind}", expected="a class")
    return factory


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError("solver file", got=str(path), expected="an existing Python file")
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(f"{_FILE_MODULE}{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    # The same file is the same module: else objects of its first classes would not pickle.
    file = (str(path), path.stat().st_mtime_ns)
    if _loaded.get(spec.name) == file:
        return sys.modules[spec.name]
    module = importlib.util.module_from_spec(spec)
    # Registered, so that its classes can be pickled; under a name that hides no real module.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        _loaded.pop(spec.name, None)
        raise
    _loaded[spec.name] = file
    return module


def _import(spec: str, load: Any) -> Any:  # noqa: ANN401
    try:
        return load()
    except InputError:
        raise
    except Exception as error:  # user code may raise anything at import
        raise InputError(
            f"solver {spec!r}",
            got=f"{type(error).__name__}: {first_line(error)}",
            expected="a name of `zopde solvers`, package.module:Class or file.py:Class",
        ) from error


def _check_options(spec: str, factory: Any, options: dict[str, Any]) -> None:  # noqa: ANN401
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in options:
        check_choice(f"option of solver {spec!r}", name, parameters)
