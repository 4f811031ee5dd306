"""A run's folder: who may write into it, and what lies where.

One run at a time in a folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zopde.errors import InputError
from zopde.files import write_text
from zopde.studies.settings import as_tree, build, differences, dump_toml, read_toml
from zopde.validate import check_folder_writable

START = "NON-start"
CHUNK = "chunk.txt"
REFERENCE = "reference.nc"  # of the unseen runs, for whoever looks at the folder alone
_WHO = ("run.workers", "run.executor")  # answers the probes


@dataclass(frozen=True)
class RunKind:
    """What sets the run folders of one recipe apart.

    Args:
        config: Its class of settings.
        contents: Names of all that a run writes, `config.toml` aside.
        free: Settings that a resumption may change without changing a single number.
    """

    config: type
    contents: tuple[str, ...]
    free: tuple[str, ...] = ("data.path", "run.checkpoint_seconds", "run.scratch")


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

    def check_data(
        self, digest: str, name: str = "data.sha256", what: str = "reference data"
    ) -> None:
        """Record what data the run is made from; a resumption must see the same.

        Args:
            digest: Of the data.
            name: The record.
            what: What was read, for the error.

        Raises:
            InputError: If the run was started on other data.
        """
        path = self.root / name
        if path.exists() and path.read_text(encoding="utf-8").strip() != digest:
            raise InputError(
                what,
                got="other numbers than the run was started with",
                expected="the same file",
                remedy="restore it, or start over with --overwrite",
            )
        write_text(path, digest + "\n")

    def write_csv(self, name: str, columns: Mapping[str, Sequence[float]]) -> None:
        """Write columns of equal length, by name."""
        rows = [
            ",".join(columns),
            *(",".join(map(repr, r)) for r in zip(*columns.values(), strict=True)),
        ]
        write_text(self.root / name, "\n".join(rows) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file whole or not at all."""
        write_text(self.root / name, text)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all; NaN and infinity are not JSON."""
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_text(self.root / name, text)


def check_run(
    root: Path,
    config: Any,  # noqa: ANN401 - settings of any study
    kind: RunKind,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Require that `open_run` will succeed; writes nothing but an empty folder.

    Args:
        root: The folder; made where it does not exist.
        config: The run's settings.
        kind: The study's.
        resume: Go on with what is there; the settings must be the same.
        overwrite: Delete what an earlier run left there.

    Raises:
        InputError: If the folder is not writable, holds something else, or its run had other
            settings.
    """
    if root.exists() and not root.is_dir():
        raise InputError("run folder", got=f"{root}, a file", expected="a folder")
    if resume and overwrite:
        raise InputError("--resume", got="--overwrite too", expected="one of the two")
    check_folder_writable("run folder", root)
    record = root / "config.toml"
    # What a kill left of a file being written is nothing to protect.
    if not any(not entry.name.endswith(".partial") for entry in root.iterdir()):
        return
    if not _is_ours(record, kind):
        # Nothing of ours is in there: not even --overwrite may delete it.
        raise InputError(
            "run folder",
            got=f"{root}, with files of no zopde run in it",
            expected="a new or empty folder",
            remedy="name another with --out",
        )
    if resume:
        _check_same(record, config, kind)
    elif not overwrite:
        raise InputError(
            "run folder",
            got=f"{root}, which holds a run",
            expected="an empty folder",
            remedy="add --resume to go on with it, --overwrite to start over",
        )


def open_run(
    root: Path,
    config: Any,  # noqa: ANN401 - settings of any study
    kind: RunKind,
    resume: bool = False,
    overwrite: bool = False,
) -> RunFolder:
    """Claim a folder for a run and write its resolved `config.toml`; see `check_run`."""
    check_run(root, config, kind, resume, overwrite)
    if overwrite:
        _clear(root, kind)
    write_text(root / "config.toml", dump_toml(as_tree(config)))
    return RunFolder(root)


def _is_ours(record: Path, kind: RunKind) -> bool:
    """Whether a `config.toml` is such a run's; other programs use the name, too."""
    try:
        build(kind.config, read_toml(record))
    except InputError:
        return False
    return record.is_file()


def _check_same(record: Path, config: Any, kind: RunKind) -> None:  # noqa: ANN401
    # Built once more: a run of a version with fewer settings had the defaults of the others.
    old, new = as_tree(build(kind.config, read_toml(record))), as_tree(config)
    changed = [name for name in differences(old, new) if name not in kind.free]
    # How many workers there are decides no number; whether there are any decides round-off.
    if all(any(_look_up(tree, name) for name in _WHO) for tree in (old, new)):
        changed = [name for name in changed if name not in _WHO]
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


def _clear(root: Path, kind: RunKind) -> None:
    """Delete what a run writes, and nothing else; the record last, so that a kill leaves a run."""
    for name in (*kind.contents, "config.toml"):
        entry = root / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


@contextmanager
def claimed(root: Path, new: bool = False) -> Iterator[None]:
    """Hold a run folder for as long as the block lasts; a process that dies lets go of it.

    Args:
        root: The folder, which exists.
        new: Whether this run made it; then it goes again if nothing was put into it.

    Raises:
        InputError: If another process, or another run of this one, holds it.
    """
    # The folder itself is locked: no file of a lock is left behind.
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                "run folder",
                got=f"{root}, in which a run is going on",
                expected="a folder of its own for every run",
                remedy="wait for it, or name another with --out",
            ) from error
        yield
    finally:
        os.close(handle)
        if new:
            with suppress(OSError):  # it holds something
                root.rmdir()
