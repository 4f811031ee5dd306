"""What the shell may complete, found without loading anything heavy."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

_STUDIES = Path(str(files("zopde"))) / "studies"


def solver_names(incomplete: str) -> Iterator[str]:
    """Solvers that are installed; a file or a module is typed, or completed by the shell."""
    return _those((point.name for point in entry_points(group="zopde.solvers")), incomplete)


def presets(incomplete: str) -> Iterator[str]:
    """Presets of correction runs."""
    return _those((path.stem for path in _STUDIES.glob("correct/presets/*.toml")), incomplete)


def classifier_presets(incomplete: str) -> Iterator[str]:
    """Presets of classification runs."""
    return _those((path.stem for path in _STUDIES.glob("classify/presets/*.toml")), incomplete)


def defence_presets(incomplete: str) -> Iterator[str]:
    """Presets of defence runs."""
    return _those((path.stem for path in _STUDIES.glob("defend/presets/*.toml")), incomplete)


def _those(names: Iterator[str], incomplete: str) -> Iterator[str]:
    return (name for name in sorted(names) if name.startswith(incomplete))
