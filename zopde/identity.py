"""Who a solver is: the content of all that decides its answers, wherever it lies."""

from __future__ import annotations

import inspect
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from torch import Tensor

from zopde import __version__
from zopde.contracts import Solver
from zopde.files import identity_of, key_of, read_toml

_INPUTS = ("case", "template")  # options whose folder decides the answers; others are written to
# Of files that options name: code and settings. Others may be what a solver writes, as a log.
_READ = (*(".py", ".so", ".nml", ".toml", ".json", ".yaml", ".yml", ".ini", ".cfg"), ".in", ".inp")


def content_of(spec: str, options: Mapping[str, Any], solver: Solver) -> str:
    """A digest of a solver's grid and files: its code, programs, libraries and case folders.

    Neither a path nor what a solver writes is in it.
    """
    kept = files_of(spec, options, solver)
    grid = solver.grid  # what its repr leaves out, where it has it
    parts = ("mask", "weights", "coordinates", "points", "cells", "neighbours")
    cells = [getattr(grid, name, None) for name in parts]
    cells.append("nearest" if getattr(grid, "fill", "zero") == "nearest" else None)
    told = [repr(grid), *filter(None, cells), *kept.values()]
    return identity_of(json.dumps(told), kept)


def content_of_code(named: Any) -> str:  # noqa: ANN401 - a class or a function
    """A digest of a class or function: its name, its file, and the files that this one imports."""
    own = Path(inspect.getsourcefile(named) or "").resolve()
    files = dict.fromkeys([own, *imported(own)])
    return identity_of(" ".join([named.__qualname__, *(path.name for path in files)]), files)


def files_of(spec: str, options: Mapping[str, Any], solver: Solver) -> dict[Path, str]:
    """The files that a solver is made of, and the name of each that counts.

    They are those that the spec and the options name, and the Python files beside one that it
    imports.
    """
    home, table = Path(str(options.get("home", ""))), dict(options)
    if spec.endswith(".toml"):
        home, table = Path(spec).parent, {**read_toml(Path(spec)), **options}
    found = dict[Path, str]()  # with the name that counts
    named = [Path(spec), Path(spec.rpartition(":")[0])]
    own = Path()
    with suppress(TypeError, OSError):  # of the interpreter's own, or typed at its prompt
        own = Path(inspect.getsourcefile(type(solver)) or "").resolve()
    folders = [home, *(home / str(table[key]) for key in ("template", "folder") if table.get(key))]
    for key, text in _texts(table):
        words = [text.replace("{home}", "."), text.rpartition(":")[0]]
        named += [folder / word for word in words if word for folder in folders]
        if key in _INPUTS and (home / text).is_dir():
            inside = sorted(path for path in (home / text).rglob("*") if path.is_file())
            found |= {p.resolve(): str(p.relative_to(home / text)) for p in inside}
    for path in (own, *named):
        if _is_read(path):
            found.setdefault(path.resolve(), path.name)
    ours = type(solver).__module__.startswith("zopde.")  # then its files have a version
    for path in [p for p in found if p.suffix == ".py" and not (ours and p == own)]:
        found |= {file: file.name for file in imported(path)}
    return {path: name for path, name in found.items() if "__pycache__" not in path.parts}


def solver_identity(spec: str, options: Mapping[str, Any], solver: Solver, content: str) -> str:
    """A digest of everything but its input that decides a solver's answer.

    Of a path in the options the name alone counts where the file is in the `content`.
    """

    def plain(value: Any) -> Any:  # noqa: ANN401 - plain values
        if isinstance(value, Mapping):
            return {key: plain(inside) for key, inside in value.items() if key != "home"}
        if isinstance(value, list | tuple):
            return [plain(inside) for inside in value]
        known = isinstance(value, str) and _is_read(Path(value))
        return Path(value).name if known else value

    who = [Path(spec).name, plain(options), getattr(solver, "options", {}), content, __version__]
    others = [Path(text) for _, text in _texts(options) if Path(text).is_file()]
    return identity_of(json.dumps(who, sort_keys=True, default=str), others)


def attributes_of(thing: object) -> tuple[str, bool]:
    """A digest of an object's attributes, and whether all are in it: some do not pickle."""
    known, whole = list[str](), hasattr(thing, "__dict__")
    for name, value in sorted(getattr(thing, "__dict__", {}).items()):
        written = BytesIO()
        try:
            _Pickler(written, protocol=5).dump(value)
        except Exception:  # objects of others raise all they like
            whole = False
        else:
            known.append(f"{name} {sha256(written.getvalue()).hexdigest()}")
    return identity_of(" ".join(known)), whole


class _Pickler(pickle.Pickler):
    """Writes of a tensor a digest: its pickle is not the same in every process."""

    def persistent_id(self, value: Any) -> str | None:  # noqa: ANN401
        return key_of("", value).hex() if isinstance(value, Tensor) else None


def _is_read(path: Path) -> bool:
    return path.is_file() and (path.suffix in _READ or os.access(path, os.X_OK))


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


def imported(path: Path) -> list[Path]:
    """A Python file, and those it imports, and so on, beside it or in its package."""
    root = path.parent
    while (root / "__init__.py").exists():
        root = root.parent
    if root.name.endswith("-packages"):  # all of Python lies beside
        return []
    finder = ModuleFinder(path=[str(root), str(path.parent)])
    with suppress(ImportError, SyntaxError, OSError):
        if root == path.parent:
            finder.run_script(str(path))
        else:
            finder.import_hook(".".join(path.relative_to(root).with_suffix("").parts))
    files = [getattr(module, "__file__", None) for module in finder.modules.values()]
    return sorted(Path(file).resolve() for file in files if file)
