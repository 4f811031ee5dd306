"""A run's folder: who may write into it, and what lies where."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zopde.checks import check_folder_writable
from zopde.errors import InputError
from zopde.recipes.config import CorrectionConfig
from zopde.recipes.settings import as_tree, differences, dump_toml, read_toml


@dataclass(frozen=True)
class RunFolder:
    """Names of everything in a run folder.

    Args:
        root: The folder.
    """

    root: Path

    def of(self, label: str, seed: int) -> Path:
        """Checkpoint, history, model and rollout of one training."""
        return self.root / label / f"seed-{seed}"

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all; NaN and infinity are not JSON."""
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        _write(self.root / name, text)


def open_run(
    root: Path, config: CorrectionConfig, resume: bool = False, overwrite: bool = False
) -> RunFolder:
    """Claim a folder for a run and write its resolved `config.toml`.

    Args:
        root: The folder; made where it does not exist.
        config: The run's settings.
        resume: Go on with what is there; the settings must be the same.
        overwrite: Delete what an earlier run left there.

    Raises:
        InputError: If the folder is not writable, holds something else, or its run had other
            settings.
    """
    if root.exists() and not root.is_dir():
        raise InputError("run folder", got=f"{root}, a file", expected="a folder")
    check_folder_writable("run folder", root)
    record = root / "config.toml"
    if any(root.iterdir()):
        if not record.exists():
            # Nothing of ours is in there: not even --overwrite may delete it.
            raise InputError(
                "run folder",
                got=f"{root}, with files of no zopde run in it",
                expected="a new or empty folder",
                remedy="name another with --out",
            )
        if overwrite:
            _clear(root)
        elif not resume:
            raise InputError(
                "run folder",
                got=f"{root}, which holds a run",
                expected="an empty folder",
                remedy="add --resume to go on with it, --overwrite to start over",
            )
        else:
            _check_same(record, config)
    _write(record, dump_toml(as_tree(config)))
    return RunFolder(root)


def _check_same(record: Path, config: CorrectionConfig) -> None:
    old, new = read_toml(record), as_tree(config)
    changed = differences(old, new)
    if changed:
        name = changed[0]
        raise InputError(
            f"setting {name!r}",
            got=repr(_look_up(new, name)),
            expected=f"{_look_up(old, name)!r}, as the run in {record.parent} was started",
            remedy="resume with the same settings, or start over with --overwrite",
        )


def _look_up(tree: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
    value: Any = tree
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _clear(root: Path) -> None:
    """Delete a run's files; the record goes last, so that a kill leaves a run, not litter."""
    for entry in sorted(root.iterdir(), key=lambda e: e.name == "config.toml"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
