"""The Python files that a solver imports in a step, or from elsewhere: its text tells of none."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Collection
from functools import cache
from pathlib import Path

from zopde.files import identity_of

# Where Python and its packages lie, which have versions; and what torch compiles as it goes
_OTHERS = {str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib")}
_MADE = ("-packages", "torchinductor")
_late: dict[str, set[Path]] = {}  # by solver: a module is loaded but once a process


def loaded() -> frozenset[Path]:
    """The files of the user's own modules that this process has loaded so far."""
    modules = [m for name, m in [*sys.modules.items()] if name.partition(".")[0] != "zopde"]
    files = [getattr(module, "__file__", None) for module in modules]
    found = {_own(file) for file in files if isinstance(file, str)}
    return frozenset(path for path in found if path is not None)


@cache  # thousands of modules, looked at twice in every run
def _own(file: str) -> Path | None:
    """A module's file, or None where it is not the user's own Python."""
    path = Path(file).resolve()
    own = (
        path.suffix == ".py"
        and path.is_file()
        and not _OTHERS & {str(parent) for parent in path.parents}
        and not any(word in part for part in path.parts for word in _MADE)
    )
    return path if own else None


def imported_late(spec: str, before: Collection[Path], known: Collection[Path]) -> list[Path]:
    """Files loaded since `before`, or in an earlier run of this process, that are not `known`."""
    late = _late.setdefault(spec, set())
    late |= loaded().difference(before, known)
    return sorted(path for path in late if path.is_file())


def digest_of_files(files: Collection[Path]) -> str:
    """A digest of the names and contents of files, wherever they lie."""
    return identity_of(" ".join(path.name for path in files), files)
