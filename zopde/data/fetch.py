"""Downloads, checked byte by byte; only when a user asks."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zopde.errors import InputError
from zopde.validate import check_choice, check_folder_writable

_PIECE = 2**20


@dataclass(frozen=True)
class Download:
    """A file that its authors publish.

    Args:
        url: Where.
        md5: Its checksum, in hexadecimal.
    """

    url: str
    md5: str

    @property
    def name(self) -> str:
        """What the file is called."""
        return self.url.rpartition("/")[2]


_CIFAR = "https://www.cs.toronto.edu/~kriz/"
DOWNLOADS = {
    "cifar10": Download(_CIFAR + "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    "cifar10-python": Download(
        _CIFAR + "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
    ),
}


def fetch(
    name: str,
    folder: Path,
    mirror: str = "",
    advance: Callable[[int, int], None] | None = None,
) -> Path:
    """Download a data set, unless it is there already.

    A file of the right checksum is left alone. What was downloaded appears under its name only
    when its checksum is right.

    Args:
        name: One of `DOWNLOADS`.
        folder: Where it goes; made where it does not exist.
        mirror: Another URL of the same file; empty for the authors' own.
        advance: Called with the bytes done and their total (0 if unknown).

    Returns:
        The file's path.

    Raises:
        InputError: If the server cannot be reached, or the checksum is wrong.
    """
    check_choice("data set", name, DOWNLOADS)
    wanted = DOWNLOADS[name]
    check_folder_writable("folder of the data set", folder)
    path = folder / wanted.name
    if path.is_file() and _md5(path) == wanted.md5:
        return path
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _download(mirror or wanted.url, partial, advance)
        found = _md5(partial)
        if found != wanted.md5:
            raise InputError(
                f"download of {name}", got=f"md5 {found}", expected=wanted.md5, remedy="try again"
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _download(url: str, path: Path, advance: Callable[[int, int], None] | None) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while piece := answer.read(_PIECE):
                file.write(piece)
                done += len(piece)
                if advance:
                    advance(done, total)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise InputError(
            f"download from {url}",
            got=f"{error}",
            expected="a server that answers",
            remedy="try again, or name a mirror of the same file with --url",
        ) from error


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
