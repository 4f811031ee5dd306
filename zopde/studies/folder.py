"""A run's folder: who may write into it, and what lies where."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import tomli_w

from zopde.errors import InputError
from zopde.files import read_toml, reading, write_text
from zopde.studies.settings import Tree, as_tree, build, differences

RECORD = "config.toml"
METRICS = "metrics.json"
CHECKSUMS = "checksums.txt"  # as `sha256sum -c` reads it
_TABLES = ("*.csv", "certificates.tsv")
_FIGURES = (METRICS, *(f"{deep}{name}" for name in _TABLES for deep in ("", "*/*/")))
_WHO = ("run.workers", "run.executor")  # they evaluate the probes


@dataclass(frozen=True, kw_only=True)
class Job:
    """The part of a study that its folders depend on; `zopde.studies.run.Study` has the rest."""

    name: str  # the command, and `study` in `config.toml`
    settings: type  # the dataclass of its settings
    # Names in a run folder that the job writes, and that --overwrite may delete
    files: tuple[str, ...]
    # Settings that a resumption may change without changing a single number
    free: tuple[str, ...] = ("data.path", "run.checkpoint_seconds", "run.hours", "run.scratch")
    # Setting -> the value that leaves it to the run: a run resumed with it has what was recorded
    found: Mapping[str, Any] = field(default_factory=dict)
    # Setting -> the record by which what it stands for, such as a file, is compared
    by_content: Mapping[str, str] = field(default_factory=lambda: {"data.path": "data.sha256"})


@dataclass(frozen=True)
class RunFolder:
    """Names of everything in a run folder."""

    root: Path  # the folder

    def of(self, label: str, seed: int) -> Path:
        """Checkpoint, history, model and rollout of one training."""
        return self.root / label / f"seed-{seed}"

    def check_record(self, name: str, digest: str, what: str) -> bool:
        """Record in a file what the run is made from; a resumption must find the same `digest`.

        Returns whether it was recorded before.
        """
        path = self.root / name
        if not path.exists():
            write_text(path, digest + "\n")
            return False
        found = path.read_bytes().strip().decode(errors="replace")
        if found != digest:
            got = "other numbers than the run was started with" if found else f"an empty {path}"
            remedy = "restore it, or start over with --overwrite"
            raise InputError(what, got=got, expected="the same file", remedy=remedy)
        return True

    def write_csv(self, name: str, columns: Mapping[str, Sequence[float]]) -> None:
        """Write columns of equal length, by name."""
        rows = zip(*columns.values(), strict=True)
        lines = [",".join(columns), *(",".join(map(repr, row)) for row in rows)]
        write_text(self.root / name, "\n".join(lines) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file whole or not at all."""
        write_text(self.root / name, text)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all; NaN and infinity are not JSON."""
        write_text(self.root / name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def write_checksums(self) -> None:
        """Write the digests of all figures of a finished run; `check_figures` compares them."""
        files = sorted(path for pattern in _FIGURES for path in self.root.glob(pattern))
        lines = [f"{_sha256(path)}  {path.relative_to(self.root)}\n" for path in files]
        self.write_text(CHECKSUMS, "".join(lines))


def check_figures(root: Path) -> None:
    """Require the figures of a finished run to be as it wrote them; early versions cannot tell."""
    path = root / CHECKSUMS
    if not (path.exists() and (root / METRICS).exists()):
        return
    with reading("file", path, "what the run wrote", "restore it from a copy"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for digest, name in (line.split("  ", 1) for line in lines):
            if (root / name).is_file() and _sha256(root / name) != digest:
                got, expected = f"other content than {CHECKSUMS} says", "what the run wrote"
                remedy = "restore it from a copy"
                raise InputError(f"file {root / name}", got=got, expected=expected, remedy=remedy)


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def check_folder(
    root: Path,
    job: Job,
    settings: Any,  # noqa: ANN401 - of the job's class
    resume: bool = False,
    overwrite: bool = False,
) -> Any:  # noqa: ANN401 - of the job's class
    """Require that `open_folder` may write; writes nothing but an empty folder.

    Returns:
        The settings; of a run that goes on, what they leave to the run is as it was recorded.
    """
    if root.exists() and not root.is_dir():
        raise InputError("run folder", got=f"{root}, a file", expected="a folder")
    if resume and overwrite:
        raise InputError("--resume", got="--overwrite too", expected="one of the two")
    # What a kill left of a file being written is nothing to protect.
    if all(entry.name.endswith(".partial") for entry in root.iterdir()):
        return settings
    remedy = "name another with --out"
    recorded = _recorded(root, job)
    if recorded is None:
        # Nothing of ours is in there: not even --overwrite may delete it.
        got = f"{root}, with files of no zopde run in it"
        raise InputError("run folder", got=got, expected="a new or empty folder", remedy=remedy)
    if not overwrite and isinstance(recorded, InputError):
        got = f"{root}, a run that this version cannot read ({recorded})"
        raise InputError("run folder", got=got, expected="one that it can", remedy=remedy)
    if resume:
        settings = _resumed(job, recorded, settings)
        _check_same(root, job, recorded, settings)
    elif not overwrite:
        got, expected = f"{root}, which holds a run", "an empty folder"
        remedy = "add --resume to go on with it, --overwrite to start over"
        raise InputError("run folder", got=got, expected=expected, remedy=remedy)
    return settings


def _resumed(job: Job, recorded: Any, settings: Any) -> Any:  # noqa: ANN401 - of the job's class
    old, new = as_tree(recorded), as_tree(settings)
    for name, value in job.found.items():
        table, _, key = name.partition(".")
        if look_up(new, name) == value:
            new[table] = {**new[table], key: look_up(old, name)}
    return build(job.settings, new) if job.found else settings


def open_folder(root: Path, job: Job, settings: Any, overwrite: bool = False) -> RunFolder:  # noqa: ANN401
    """Take a checked folder for a run and write its resolved `config.toml`."""
    if overwrite:
        _clear(root, job)
    write_text(root / RECORD, tomli_w.dumps({"study": job.name, **as_tree(settings)}))
    return RunFolder(root)


def read_record(job: Job, record: Path) -> Any:  # noqa: ANN401 - of the job's class
    """The settings that a run recorded, those of older versions included."""
    return build(job.settings, upgraded(read_toml(record), job))


def upgraded(tree: Tree, job: Job) -> Tree:
    """What a `config.toml` holds, in today's words; `upgrade` of the settings' class knows how."""
    tree = dict(tree)
    study = tree.pop("study", job.name)
    if study != job.name:
        raise InputError("study", got=repr(study), expected=repr(job.name))
    upgrade = getattr(job.settings, "upgrade", None)
    return tree if upgrade is None else upgrade(tree)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold a run folder for as long as the block lasts; a process that dies lets go of it."""
    # The folder itself is locked: no file of a lock is left behind.
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            got, expected = (
                f"{root}, in which a run is going on",
                "a folder of its own for every run",
            )
            remedy = "wait for it, or name another with --out"
            raise InputError("run folder", got=got, expected=expected, remedy=remedy) from error
        yield
    finally:
        os.close(handle)


def _recorded(root: Path, job: Job) -> Any:  # noqa: ANN401 - of the job's class
    """The settings of the run in a folder; why they are no settings today; None without a run.

    Other programs use the name `config.toml`, too.
    """
    if (root / RECORD).exists() and not (root / RECORD).read_bytes().strip():
        return InputError(RECORD, got="an empty file", expected="the settings of the run")
    try:
        return read_record(job, root / RECORD)
    except InputError as error:
        with suppress(InputError):
            tree = read_toml(root / RECORD)
            study = tree.pop("study", None)
            known = tree.keys() <= {entry.name for entry in fields(job.settings)}
            if study == job.name or (study is None and known and len(tree) > 1):
                return error
    return None


def _check_same(root: Path, job: Job, recorded: Any, settings: Any) -> None:  # noqa: ANN401
    # Built once more: a run of a version with fewer settings had the defaults of the others.
    old, new = as_tree(recorded), as_tree(settings)
    by_content = {name for name, file in job.by_content.items() if (root / file).exists()}

    def same(name: str) -> bool:
        """Whether content tells, and not the text: of a file, also one that an option names."""
        texts = [look_up(tree, name) for tree in (old, new)]
        option = name.startswith("solver.options.") and "solver.spec" in by_content
        moved = option and all(isinstance(text, str) for text in texts)
        return name in by_content or (moved and len({Path(text).name for text in texts}) == 1)

    changed = [name for name in differences(old, new) if name not in job.free and not same(name)]
    # How many workers there are decides no number; whether there are any decides round-off.
    if all(any(look_up(tree, name) for name in _WHO) for tree in (old, new)):
        changed = [name for name in changed if name not in _WHO]
    for name in changed:
        got = repr(look_up(new, name))
        expected = f"{look_up(old, name)!r}, as the run in {root} was started"
        remedy = "resume with the same settings, or start over with --overwrite"
        raise InputError(f"setting {name!r}", got=got, expected=expected, remedy=remedy)


def look_up(tree: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
    """The setting of a dotted name; None where there is none."""
    value: Any = tree
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _clear(root: Path, job: Job) -> None:
    """Delete what a run writes, and nothing else; the record last, so that a kill leaves a run."""
    for name in (*job.files, CHECKSUMS, RECORD):
        entry = root / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
