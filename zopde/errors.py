"""What can go wrong, in two families: the caller's fault and the solver's."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dis import opname
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # an error must not cost the seconds that torch takes to import
    from torch import Tensor

_ROOM = "make room on its disk, then give the command again (with --resume where a run is going on)"
_RIGHTS = "give yourself the right to write there, or name another folder"
_HANDLES = "raise the limit of open files: ulimit -n 4096"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHTS),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _HANDLES),
    errno.EIO: "the disk fails: name a folder on another",
}

__all__ = ["ClassifierError", "Failure", "InputError", "SolverError"]

_LONGEST = 400  # characters of what is wrong, and of what was got


class InputError(ValueError):
    """The caller's fault: one line that says what, got, expected and remedy.

    Args:
        what: The thing that is wrong, in the caller's words (an argument, a key, a file).
        got: What was found.
        expected: What would have been right.
        remedy: What to do now; may be empty where `expected` already says it.

    Example:
        >>> print(InputError("mu", got=-1.0, expected="a number > 0", remedy="try 1e-3"))
        mu: got -1.0, expected a number > 0; try 1e-3
    """

    def __init__(self, what: str, *, got: object, expected: str, remedy: str = "") -> None:
        self.what = _short(what)
        # As text, whatever `got` was: errors come back from worker processes.
        self._parts = {"got": _short(str(got)), "expected": expected, "remedy": remedy}
        message = f"{self.what}: got {self._parts['got']}, expected {expected}"
        super().__init__(f"{message}; {remedy}" if remedy else message)

    def of(self, name: object) -> InputError:
        """The same error, of something that has a name, such as one file of several."""
        return InputError(f"{name}: {self.what}", **self._parts)

    def __reduce__(self) -> tuple[Callable[[], InputError], tuple[()]]:
        return partial(InputError, self.what, **self._parts), ()


def _short(text: str) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


class ObjectiveError(InputError):
    """The objective answered something else than one loss for each probe."""


@dataclass(frozen=True)
class Failure:
    """One state of a batch that a solver could not advance."""

    row: int  # which of the batch
    reason: str  # what happened, in one line
    folder: str = ""  # where the run's files are kept; "" where there are none
    log: str = ""  # the last lines that the run wrote; "" where there are none

    def described(self) -> str:
        """All that is known of it, in one line."""
        kept = f"; its folder is {self.folder}" if self.folder else ""
        log = f"; its log ends: {' | '.join(self.log.splitlines())}" if self.log else ""
        return f"{self.reason}{kept}{log}"


NOT_FINITE = "an answer that is not finite"
"""Why a step failed that gave NaN: this, or what begins with it."""


class StepError(Exception):
    """One state has no answer; inside zopde alone, where a `Failure` is made of it."""

    def __init__(self, reason: str, folder: str = "", log: str = "") -> None:
        super().__init__(reason)
        self.reason, self.folder, self.log = reason, folder, log

    def at(self, row: int) -> Failure:
        """The failure of a state of a batch."""
        return Failure(row, self.reason, self.folder, self.log)


class SolverError(RuntimeError):
    """The solver's fault: a step that failed, or returned what no state can hold.

    Args:
        message: What failed, in one line.
        failures: The states of the batch that failed, if the others did not.
        answers: (batch, channel, *space), the answers of the others; NaN where it failed.
    """

    whose = "the solver"

    def __init__(
        self, message: str, failures: Sequence[Failure] = (), answers: Tensor | None = None
    ) -> None:
        super().__init__(message)
        self.failures = tuple(failures)
        self.answers = answers

    def __reduce__(self) -> tuple[type[SolverError], tuple[object, ...]]:
        return type(self), (str(self), self.failures, self.answers)


class MistakeError(SolverError):
    """Something that no step after it can mend: it ends a run, whatever `run.failures` says."""


class ClassifierError(SolverError):
    """The classifier's fault: a black-box classifier that failed, or returned no scores."""

    whose = "the classifier"


class PausedError(Exception):
    """A run has spent what it may spend; its checkpoints are written, and --resume goes on."""


def first_line(error: BaseException) -> str:
    """What an error of a library below says, in one line."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def refusal(error: BaseException, path: object = "") -> InputError | None:
    """What the system has against a file, in one line with the remedy; None for other errors."""
    number = error.errno if isinstance(error, OSError) and error.errno else 0
    if number not in _REMEDIES:
        return None
    what = f"file {path or getattr(error, 'filename', '') or 'to be written'}"
    expected = "a file that can be opened and written"
    return InputError(what, got=os.strerror(number), expected=expected, remedy=_REMEDIES[number])


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an exception comes from Ctrl-C: a program's own `raise KeyboardInterrupt` does not.

    Python raises a signal's exception between two instructions, a program by one: `raise`.
    """
    while error is not None:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        if isinstance(error, KeyboardInterrupt):
            code = b"" if place is None else place.tb_frame.f_code.co_code[place.tb_lasti :]
            if not code or opname[code[0]] != "RAISE_VARARGS":
                return True
        error = error.__cause__ or error.__context__  # one that was caught, and told in other words
    return False


def check_system() -> None:
    """Require Linux, whose process groups, locks and memory settings zopde uses."""
    if sys.platform != "linux":
        remedy = "on Windows use WSL, elsewhere a container or another machine"
        got = repr(sys.platform)
        raise InputError("operating system", got=got, expected="Linux", remedy=remedy)
