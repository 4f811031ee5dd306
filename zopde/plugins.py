"""Finding solvers: by entry point, by import string, by file, by a table of settings."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_type_hints

from zopde.contracts import Solver
from zopde.errors import InputError, first_line, is_interrupt
from zopde.files import identity_of, read_toml
from zopde.grid import Grid
from zopde.mesh import Mesh
from zopde.validate import check_choice, check_type

__all__ = ["SolverInfo", "find_solvers", "load_solver"]

GROUP = "zopde.solvers"
_FILE_MODULE = "zopde_user_"
UserFile = tuple[str, int]  # path, and when it was written (ns)
_loaded: dict[str, UserFile] = {}  # by module name


@dataclass(frozen=True)
class SolverInfo:
    """One line about an installed solver."""

    name: str  # what the command line calls it
    target: str  # where it is defined, "package.module:Class"
    summary: str  # first line of its docstring, or why it cannot be imported


def find_solvers() -> list[SolverInfo]:
    """List the solvers that installed packages announce as `zopde.solvers`, by name."""
    solvers = []
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        try:
            summary = (inspect.getdoc(point.load()) or "no description").splitlines()[0]
        except Exception as error:  # one broken package must not hide the others
            summary = f"not importable: {first_line(error)}"
        solvers.append(SolverInfo(point.name, point.value, summary))
    return solvers


def load_solver(spec: str, options: Mapping[str, Any] | None = None) -> Solver:
    """Build the solver that `spec` names.

    A TOML file names one of these under the key `solver`; its other keys are the options. Where
    the class takes a `home`, the file's folder is passed: its paths are relative to that.

    Args:
        spec: An entry point ("burgers"), "package.module:Class", "file.py:Class" or "file.toml".
        options: Keyword arguments of the class; they go before those of a TOML file.

    Returns:
        An instance with a `grid` and a `step`.

    Raises:
        InputError: If nothing of that name is found, it does not import, does not take
            the options, or is not a solver.
    """
    check_type("solver", spec, str)
    check_type("solver options", options, Mapping[str, Any] | None)
    given, target, home, spec = dict(options or {}), str(spec), Path(), str(spec)
    if spec.endswith(".toml"):
        home, table = Path(spec).resolve().parent, read_toml(Path(spec), "solver file")
        if not isinstance(table.get("solver"), str):
            got, expected = f"the keys {sorted(table)}", "a key `solver` that names one"
            remedy = 'such as solver = "command"'
            raise InputError(f"solver file {Path(spec)}", got=got, expected=expected, remedy=remedy)
        target = table.pop("solver")
        given = _laid_over(table, given)
    factory = _resolve(target, home)
    what = f"solver {spec!r}"
    if not inspect.isclass(factory):
        raise InputError(what, got=f"a {type(factory).__name__}", expected="a class")
    parameters = _run(lambda: inspect.signature(factory).parameters, what, "a class of Python")
    if spec.endswith(".toml") and "home" in parameters:
        given = {"home": str(home), **given}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in given:
            check_choice(f"option of {what}", name, parameters)
    for name, hint in _hints_of(factory).items():
        if name in given:
            check_type(f"option {name!r} of {what}", given[name], hint)
    solver = _run(lambda: factory(**given), what, "a class that builds from solver.options")
    has_step = callable(getattr(solver, "step", None))
    if not (has_step and isinstance(getattr(solver, "grid", None), Grid | Mesh)):
        expected = "an object with `grid: zopde.Grid` (or Mesh) and `step(state, forcing=None)`"
        raise InputError(what, got=type(solver).__name__, expected=expected)
    return cast(Solver, solver)


def load_object(spec: str, home: str | Path = "", what: str = "solver") -> Any:  # noqa: ANN401
    """What a module holds under a name: "package.module:name", or "file.py:name" in `home`."""
    if ":" not in spec:
        name = "name" if what == "solver" else what
        raise InputError(name, got=repr(spec), expected="package.module:name or file.py:name")
    return _resolve(spec, Path(home), what)


def user_files() -> tuple[UserFile, ...]:
    """The solver files loaded so far and still there, for `import_user_files` elsewhere."""
    return tuple(file for file in _loaded.values() if Path(file[0]).is_file())


def import_user_files(files: Iterable[UserFile]) -> None:
    """Load the `user_files` of the process that pickles, so that this one can unpickle.

    Raises:
        InputError: If a file is not there, does not import, or was written anew since.
    """
    for path, written in files:
        _import(path, partial(_load_file, Path(path), "solver"), "solver")
        if Path(path).stat().st_mtime_ns != written:
            got = f"{path}, changed since it was loaded"
            expected = "one that stays the same while workers use it"
            raise InputError("solver file", got=got, expected=expected, remedy="start again")


def _hints_of(factory: type) -> dict[str, Any]:
    """Argument -> what it is declared to be; nothing where a user's annotations name nothing."""
    try:
        return get_type_hints(factory.__init__)  # type: ignore[misc]
    except Exception:  # an annotation is any expression
        return {}


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {**below, **above}
    for key, value in below.items():
        if isinstance(value, Mapping) and isinstance(above.get(key), Mapping):
            both[key] = _laid_over(value, above[key])
    return both


def _resolve(spec: str, home: Path, what: str = "solver") -> Any:  # noqa: ANN401 - what is there
    module_name, colon, attribute = spec.rpartition(":")
    if not colon:
        points = {point.name: point for point in entry_points(group=GROUP)}
        check_choice("solver", spec, points)
        return _import(spec, points[spec].load, what)
    if not (module_name and attribute):
        raise InputError(what, got=repr(spec), expected="package.module:Class or file.py:Class")
    if module_name.endswith(".py"):
        module = _import(spec, partial(_load_file, home / module_name, what), what)
    else:
        # A module beside the user's data must be found as it is by `python`.
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        module = _import(spec, partial(importlib.import_module, module_name), what)
    if not hasattr(module, attribute):
        names = [name for name, value in vars(module).items() if callable(value)]
        check_choice(f"name in {module_name}", attribute, names)
    return getattr(module, attribute)


def _load_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{what} file", got=str(path), expected="an existing Python file")
    path = path.resolve()
    # By its path, too: a solver and a network may lie in two files of one name.
    stem = re.sub(r"\W", "_", path.stem)  # a dot would name a module inside of another
    name = f"{_FILE_MODULE}{stem}_{identity_of(str(path))[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    # The same file is the same module: else objects of its first classes would not pickle.
    file = (str(path), path.stat().st_mtime_ns)
    if _loaded.get(spec.name) == file:
        return sys.modules[spec.name]
    module = importlib.util.module_from_spec(spec)
    # Registered, so that its classes can be pickled; under a name that hides no real module.
    sys.modules[spec.name] = module
    # As if Python had been given the file: it finds the modules that lie beside it.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        _loaded.pop(spec.name, None)
        raise
    _loaded[spec.name] = file
    return module


def _import(spec: str, load: Callable[[], Any], what: str) -> Any:  # noqa: ANN401
    expected = "package.module:name or file.py:name"
    if what == "solver":
        expected = "a name of `zopde solvers`, package.module:Class, file.py:Class or file.toml"
    return _run(load, f"{what} {spec!r}", expected)


def _run(work: Callable[[], Any], what: str, expected: str) -> Any:  # noqa: ANN401
    """Run a user's code and say in one line what it raised."""
    try:
        return work()
    except InputError:
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        got = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(what, got=got, expected=expected) from error
