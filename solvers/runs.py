"""Runs of an executable, one for every state, side by side; what is left of those that failed."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar, final

from torch import Tensor

from zopde.child import Child, end, ending, last_lines
from zopde.contracts import Forcing, State
from zopde.errors import (
    Failure,
    InputError,
    MistakeError,
    SolverError,
    StepError,
    first_line,
    is_interrupt,
)
from zopde.grid import Grid
from zopde.solvers.files import RECORDS, Files
from zopde.solvers.rows import checked, failure_message, reals, step_rows
from zopde.validate import MOST_SECONDS, check_count, check_positive

_LOG = "zopde.log"
_TAIL = 2**16  # bytes of it that a failure's lines are looked for in
_PREFIX = "zopde-run-"
_GRACE = 2.0  # seconds between SIGTERM, which lets mpirun take its ranks along, and SIGKILL
_T = TypeVar("_T")


@final
@dataclass(frozen=True)
class Runs:
    """Advances every state of a batch by a run of its own, in a folder of its own."""

    name: str  # for messages
    grid: Grid
    files: Files  # what a run reads and writes
    arguments: Sequence[str]  # as `command_line` returns them, with {placeholders}
    # What stands for them, beside the names of `files` and "folder"
    values: Mapping[str, str] = field(default_factory=dict)
    # As of `zopde.solvers.command.Command`, as are all that follow; None stands for ""
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 3600.0
    concurrency: int = 1
    error_pattern: str = ""
    template: Path | None = None
    work: Path | None = None
    failed: Path | None = None
    keep_failed: int = 10

    def __post_init__(self) -> None:
        check_count("concurrency", self.concurrency)
        check_positive("timeout", self.timeout, MOST_SECONDS)
        try:
            re.compile(self.error_pattern)
        except re.error as error:
            got, expected = repr(self.error_pattern), f"no error ({error})"
            raise InputError("error_pattern", got=got, expected=expected) from error
        for name, folder in (("template", self.template), ("work", self.work)):
            if folder is not None and not folder.is_dir():
                raise InputError(name, got=str(folder), expected="a folder that is there")

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """See `zopde.Solver.step`; Ctrl-C ends all runs first."""
        alive: set[Child] = set()
        with TemporaryDirectory("", _PREFIX, self.work, ignore_cleanup_errors=True) as folder:
            ask, stop = partial(self._ask, alive, Path(folder)), partial(end, alive, _GRACE)
            try:
                return step_rows(self.grid, state, forcing, ask, self.concurrency, stop=stop)
            except MistakeError as error:
                raise MistakeError(f"{self.name} {error}") from error
            except SolverError as error:
                failures = self._keep(error.failures)
                message = f"{self.name}: {failure_message(failures, len(state), 'runs')}"
                raise SolverError(message, failures, error.answers) from error

    def _ask(
        self, alive: set[Child], parent: Path, state: Tensor, forcing: Tensor | None
    ) -> Tensor:
        folder = Path(tempfile.mkdtemp(prefix=f"{parent.name}-", dir=parent))
        if self.template is not None:
            shutil.copytree(self.template, folder, symlinks=True, dirs_exist_ok=True)
        forces = None if forcing is None else forcing.numpy()
        try:
            _tried("writing the state", lambda: self.files.write(folder, state.numpy(), forces))
            self._run(alive, folder)
            found = _tried("reading the answer", lambda: reals(self.files.read(folder)))
            answer = checked(self.grid, found, state)
        except StepError as error:
            log = last_lines(_log(folder, _TAIL), self.error_pattern)
            # What Fortran says that reads a raw file as if it had records
            word = f"; {RECORDS}" if re.search("unformatted|end of record", log, re.I) else ""
            raise StepError(error.reason + word, str(folder), log) from error
        shutil.rmtree(folder, ignore_errors=True)
        return answer

    def _run(self, alive: set[Child], folder: Path) -> None:
        values = {**self.values, **self.files.names, "folder": str(folder)}
        arguments = [filled(word, values) for word in self.arguments]
        began = time.monotonic()
        with (folder / _LOG).open("wb") as log:
            child = Child(arguments, folder, self.environment, log.fileno())
            alive.add(child)
            try:
                code = child.ended(self.timeout)
            finally:  # late, interrupted, or at its end with children that are not
                end([child], _GRACE)
                alive.discard(child)
        if code is None:
            raise StepError(f"no end after {self.timeout:g} s")
        if code:
            raise StepError(f"{ending(code)} after {time.monotonic() - began:.2g} s")
        if self.error_pattern:
            text = _log(folder).decode(errors="replace")
            if match := re.search(self.error_pattern, text, re.M):
                raise StepError(f"exit code 0, but its log says {match.group()!r}")

    def _keep(self, failures: Sequence[Failure]) -> list[Failure]:
        """The failures, with the place of each folder that is kept."""
        parent = self.failed or Path(tempfile.gettempdir()) / f"zopde-failed-{os.getuid()}"
        places: dict[str, str] = {}
        left = [failure.folder for failure in failures if failure.folder]
        for folder in left[: self.keep_failed]:
            parent.mkdir(parents=True, exist_ok=True)
            places[folder] = str(shutil.move(folder, parent))
        ages = {}
        for run in parent.glob(f"{_PREFIX}*") if places else ():
            with suppress(FileNotFoundError):  # another process deletes them, too
                ages[run] = run.stat().st_mtime
        oldest = sorted(ages, key=ages.__getitem__)
        for run in oldest[: max(0, len(ages) - self.keep_failed)]:
            shutil.rmtree(run, ignore_errors=True)
        return [replace(failure, folder=places.get(failure.folder, "")) for failure in failures]


def command_line(
    command: Sequence[str], home: Path, template: Path | None = None
) -> tuple[str, ...]:
    """The arguments; the program, relative to home or template, as it is found from anywhere."""
    if isinstance(command, str) or not command or not all(type(word) is str for word in command):
        raise InputError("command", got=repr(command), expected='a list, ["./program", "{state}"]')
    name = command[0].replace("{home}", str(home))
    if "/" not in name:
        program = shutil.which(name)
        remedy = f"./{name} for the one in {home}" if (home / name).exists() else ""
    elif template is not None and (template / name).exists() and not (home / name).exists():
        program, remedy = name, ""
    else:
        program, remedy = shutil.which(str(home / name)), "is it there, and is it executable?"
    if program is None:
        raise InputError("command", got=name, expected="a program that is found", remedy=remedy)
    return (program, *command[1:])


def filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with the value of every {placeholder} that has one; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def _log(folder: Path, most: int = sys.maxsize) -> bytes:
    """The last bytes that a run printed."""
    path = folder / _LOG
    if not path.exists():
        return b""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - most))
        return log.read()


def _tried(what: str, do: Callable[[], _T]) -> _T:
    try:
        return do()
    except (StepError, MistakeError):
        raise
    except BaseException as error:  # a user's functions, or a file of garbage, may raise anything
        if is_interrupt(error):
            raise
        raise StepError(f"{what}: {type(error).__name__}: {first_line(error)}") from error
