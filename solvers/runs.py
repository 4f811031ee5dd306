"""One run of an executable in a folder of its own, ended in time and with all its children."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from zopde.errors import InputError
from zopde.validate import check_positive

LOG = "zopde.log"
_GRACE = 2.0  # seconds between SIGTERM, which lets mpirun take its ranks along, and SIGKILL
_LOG_LINES = 5
_LOG_BYTES = 8192


class RunError(Exception):
    """Why a run counts as failed, in one line."""


@final
@dataclass(frozen=True)
class Program:
    """What is run, and how it is told apart from a failure.

    Args:
        arguments: The command line; the folder is the run's own.
        environment: Variables over those of this process.
        timeout: Seconds from the start of the run.
        error_pattern: A regular expression; where the log matches, the run has failed whatever
            its exit code. "" for none.
        template: Folder that every run's is a copy of; None for an empty one.
        work: Folder that holds the runs' folders; None for the system's temporary one.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 3600.0
    error_pattern: str = ""
    template: Path | None = None
    work: Path | None = None

    def __post_init__(self) -> None:
        check_positive("timeout", self.timeout)
        try:
            re.compile(self.error_pattern)
        except re.error as error:
            raise InputError(
                "error_pattern", got=repr(self.error_pattern), expected=f"no error ({error})"
            ) from error
        for name, folder in (("template", self.template), ("work", self.work)):
            if folder is not None and not folder.is_dir():
                raise InputError(name, got=str(folder), expected="a folder that is there")

    def furnish(self, folder: Path) -> None:
        """Make a run's folder."""
        if self.template is None:
            folder.mkdir()
        else:
            shutil.copytree(self.template, folder, symlinks=True)


def command_line(command: Sequence[str], home: Path, template: Path | None) -> tuple[str, ...]:
    """The arguments, the program as it will be found from a run's folder.

    Args:
        command: As the user gave it.
        home: Folder of a program given by a relative path.
        template: Another one.

    Raises:
        InputError: If there is no such program.
    """
    if isinstance(command, str) or not command or not all(type(one) is str for one in command):
        raise InputError("command", got=repr(command), expected='a list, ["./program", "{state}"]')
    name = command[0].replace("{home}", str(home))
    if "/" not in name:
        found = shutil.which(name)
        remedy = f"./{name} for the one in {home}" if (home / name).exists() else ""
    elif template is not None and (template / name).exists() and not (home / name).exists():
        found, remedy = name, ""
    else:
        found, remedy = shutil.which(str(home / name)), "is it there, and is it executable?"
    if found is None:
        raise InputError("command", got=name, expected="a program that is found", remedy=remedy)
    return (found, *command[1:])


@final
class Running:
    """The processes that are alive now, so that all of them can be ended at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alive: dict[int, threading.Event] = {}  # process group, and that it is over
        self._stopped = False

    def run(self, program: Program, arguments: Sequence[str], folder: Path) -> None:
        """Run `arguments` in `folder` to its end.

        Raises:
            RunError: If it cannot be started, ends with another code than 0, takes too long,
                or leaves the error pattern in its log.
        """
        began = time.monotonic()
        with (folder / LOG).open("wb") as log:
            process = self._start(program, arguments, folder, log.fileno())
            over, late = threading.Event(), threading.Event()
            killer = threading.Timer(program.timeout, self._too_late, (process.pid, late))
            with self._lock:
                self._alive[process.pid] = over
                stopped = self._stopped
            killer.start()
            if stopped:
                self._signal(process.pid, signal.SIGKILL)
            # Not reaped yet: until its children are gone the group's number must stay taken.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            killer.cancel()
            with self._lock:
                del self._alive[process.pid]
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            over.set()
            code = process.wait()
        seconds = time.monotonic() - began
        if late.is_set():
            raise RunError(f"no end after {program.timeout:g} s")
        if code:
            raise RunError(f"{_ending(code)} after {seconds:.2g} s")
        found = program.error_pattern and re.search(program.error_pattern, whole_log(folder), re.M)
        if found:
            raise RunError(f"exit code 0, but its log says {found.group()!r}")

    def stop(self) -> None:
        """End every process; none starts afterwards."""
        with self._lock:
            self._stopped = True
            alive = dict(self._alive)
        for group in alive:
            self._signal(group, signal.SIGTERM)
        until = time.monotonic() + _GRACE
        for group, over in alive.items():
            if not over.wait(max(0.0, until - time.monotonic())):
                self._signal(group, signal.SIGKILL)

    def _start(
        self, program: Program, arguments: Sequence[str], folder: Path, log: int
    ) -> subprocess.Popen[bytes]:
        if self._stopped:
            raise RunError("not started: the others were interrupted")
        try:
            return subprocess.Popen(
                arguments,
                cwd=folder,
                env={**os.environ, **program.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own: it is ended as one
            )
        except OSError as error:
            raise RunError(f"{arguments[0]} does not start: {error.strerror}") from error

    def _too_late(self, group: int, late: threading.Event) -> None:
        with self._lock:
            over = self._alive.get(group)
        if over is None:
            return
        late.set()
        self._signal(group, signal.SIGTERM)
        if not over.wait(_GRACE):
            self._signal(group, signal.SIGKILL)

    def _signal(self, group: int, number: int) -> None:
        with self._lock:
            if group in self._alive:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, number)


def whole_log(folder: Path) -> str:
    """Everything that the run wrote to stdout and stderr."""
    path = folder / LOG
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def last_lines(folder: Path, error_pattern: str) -> str:
    """The last lines of the log; those from where the pattern matches, if it does."""
    path = folder / LOG
    if not path.exists():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _LOG_BYTES))
        lines = log.read().decode("utf-8", errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    for i, line in enumerate(lines if error_pattern else ()):
        if re.search(error_pattern, line):
            return "\n".join(lines[i : i + _LOG_LINES])
    return "\n".join(lines[-_LOG_LINES:])


def _ending(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"
