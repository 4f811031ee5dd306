"""Who a solver is: the content of all that decides its answers, wherever it lies."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zopde import __version__
from zopde.contracts import Solver
from zopde.files import identity_of
from zopde.studies.settings import read_toml

_INPUTS = ("case", "template")  # options whose folder decides the answers; others are written to
_OUTPUTS = (".log", ".out", ".err")  # of files that a solver writes


def content_of(spec: str, options: Mapping[str, Any], solver: Solver) -> str:
    """A digest of a solver's grid and files: its code, programs, libraries and case folders.

    Files are those that the spec and the options name, and the Python files beside one that it
    imports. Neither a path nor what a solver writes is in it.
    """
    home, table = Path(str(options.get("home", ""))), dict(options)
    if spec.endswith(".toml"):
        home, table = Path(spec).parent, {**read_toml(Path(spec)), **options}
    found = dict[Path, str]()  # with the name that counts
    named = [Path(spec), Path(spec.rpartition(":")[0])]
    own = Path()
    with suppress(TypeError):  # a class of the interpreter's own has no file
        own = Path(inspect.getsourcefile(type(solver)) or "").resolve()
    folders = [home, *(home / str(table[key]) for key in ("template", "folder") if table.get(key))]
    for key, text in _texts(table):
        words = [text.replace("{home}", "."), text.rpartition(":")[0]]
        named += [folder / word for word in words if word for folder in folders]
        if key in _INPUTS and (home / text).is_dir():
            inside = sorted(path for path in (home / text).rglob("*") if path.is_file())
            found |= {p.resolve(): str(p.relative_to(home / text)) for p in inside}
    for path in (own, *named):
        if path.is_file() and path.suffix not in _OUTPUTS:
            found.setdefault(path.resolve(), path.name)
    ours = type(solver).__module__.startswith("zopde.")  # then its files have a version
    for path in [p for p in found if p.suffix == ".py" and not (ours and p == own)]:
        found |= {file: file.name for file in _imported(path, found)}
    kept = {path: name for path, name in found.items() if "__pycache__" not in path.parts}
    return identity_of(json.dumps([repr(solver.grid), *kept.values()]), kept)


def solver_identity(spec: str, options: Mapping[str, Any], solver: Solver, content: str) -> str:
    """A digest of everything but its input that decides a solver's answer; no path is in it."""
    plain = [Path(spec).name, _without_folders(options), getattr(solver, "options", {})]
    return identity_of(json.dumps([*plain, content, __version__], sort_keys=True, default=str))


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 - plain values
    """Every text in a table, with the key at its top."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inside in value.items():
            yield from _texts(inside, key or name)
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from _texts(inside, key)


def _without_folders(options: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in options.items() if key != "home"}
    return {k: Path(v).name if isinstance(v, str) else v for k, v in plain.items()}


def _imported(path: Path, known: Mapping[Path, str]) -> list[Path]:
    """The files beside a Python file, and in its package, that it imports, and so on."""
    if path.parent.name.endswith("-packages"):
        return []  # all of Python lies beside
    found, left = list[Path](), [path]
    while left:
        file = left.pop()
        top = file.parent  # of the package that it is in
        while (top.parent / "__init__.py").exists():
            top = top.parent
        for name, above in _imports(file):
            base = file.parents[above - 1] if above else file.parent
            if not above and name.split(".")[0] == top.name and (top / "__init__.py").exists():
                base = top.parent
            place = base / name.replace(".", "/")
            for candidate in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
                there = candidate.resolve()
                if candidate.is_file() and there not in (*known, *found):
                    found.append(there)
                    left.append(there)
    return found


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Names of the modules that a file imports, and how many folders up they are looked for."""
    with suppress(OSError, SyntaxError, ValueError, RecursionError):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from ((alias.name, 0) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                yield module, node.level
                yield from ((f"{module}.{a.name}".lstrip("."), node.level) for a in node.names)
