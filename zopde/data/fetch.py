"""Downloads, checked byte by byte; only when a user asks."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from zopde.errors import InputError, refusal
from zopde.files import replacing
from zopde.validate import check_choice, check_folder_writable

_PIECE = 2**20  # bytes


# Name -> where its authors publish it, SHA-256.
DOWNLOADS = {
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    )
}


def fetch(
    name: str, folder: Path, mirror: str = "", advance: Callable[[int, int], None] | None = None
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
    url, expected = DOWNLOADS[name]
    check_folder_writable("folder of the data set", folder)
    path = folder / url.rpartition("/")[2]
    if path.is_file() and _sha256(path) == expected:
        return path
    with replacing(path) as partial:
        _download(mirror or url, partial, advance)
        got = _sha256(partial)
        if got != expected:
            what = f"sha256 of the download of {name}"
            raise InputError(what, got=got, expected=expected, remedy="try again")
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
    except (OSError, ValueError, HTTPException) as error:
        if refusal(error):  # the disk's, which `replacing` says
            raise
        what, expected = f"download from {url}", "a server that answers"
        remedy = "try again, or name a mirror of the same file with --url"
        raise InputError(what, got=f"{error}", expected=expected, remedy=remedy) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
