"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zopde.errors import InputError


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
