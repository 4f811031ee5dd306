"""Files that are written whole or not at all, and digests by which content is known again."""

from __future__ import annotations

import csv
import os
import re
import socket
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import blake2b, sha256
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zopde.errors import InputError, first_line, refusal

_PARTIAL = re.compile(r"\..+\.(\d+)(?:@(.+))?\.partial")  # older versions did not name the host
_KEY = 16  # bytes of a key
_NUMBERS = 2**22  # of a large tensor that are brought to the CPU at a time
_SETTINGS = 2**24  # bytes that a file of settings has at most


@contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Say in one line what the system has against a file: a full disk, a permission, a limit."""
    try:
        yield
    except OSError as error:
        refused = refusal(error, path)
        if refused is None:
            raise
        raise refused from error


@contextmanager
def reading(what: str, path: Path | str, expected: str, remedy: str = "") -> Iterator[None]:
    """Say in one line what is wrong with a file, whatever a library raises that reads it."""
    try:
        with reaching(Path(path)):
            yield
    except InputError:
        raise
    except Exception as error:  # a damaged file makes libraries raise all they have
        got = f"unreadable ({first_line(error)})"
        raise InputError(f"{what} {path}", got=got, expected=expected, remedy=remedy) from error


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Write a file under another name first; a reader sees the old file or the new one.

    The name to write to lies in the same folder, which is made, and ends in ".partial". When
    the block ends well the file takes the place of `path`; when it raises, the file goes. What
    a process that was killed left there goes, too. A durable file also survives a power cut: the
    content is brought to the disk before the name, and the name before this returns. That takes
    milliseconds.

    Raises:
        InputError: If the disk is full, or the system refuses the file for another such reason.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.partial")
    with reaching(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        try:
            yield partial
            if durable:
                _to_disk(partial)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
    if durable:
        with suppress(OSError):  # some network disks cannot do that to a folder
            _to_disk(path.parent)


@lru_cache(maxsize=256)  # once a process and folder: a bank has thousands of files
def _sweep(folder: Path) -> None:
    """Take away what processes of this machine that are no more left half written."""
    for entry in folder.iterdir():
        found = _PARTIAL.fullmatch(entry.name)
        if found and (found[2] or socket.gethostname()) == socket.gethostname():
            with suppress(OSError):
                try:
                    os.kill(int(found[1]), 0)
                except (ProcessLookupError, OverflowError):
                    entry.unlink()


def write_bytes(path: Path, *pieces: bytes | memoryview, durable: bool = True) -> None:
    """Write a file that is complete in memory; see `replacing`."""
    with replacing(path, durable) as partial, partial.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def read_toml(path: Path, what: str = "config file") -> dict[str, Any]:
    """A TOML file as nested dicts, with or without a byte order mark; one line if it is none."""
    expected = "a readable TOML file"
    try:
        with Path(path).open("rb") as file:
            content = file.read(_SETTINGS + 1)
        if len(content) <= _SETTINGS:
            return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise InputError(what, got=f"{path} ({error.strerror})", expected=expected) from error
    except UnicodeDecodeError as error:
        raise InputError(what, got=f"{path}, which is no UTF-8", expected=expected) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        where = str(error) if isinstance(error, ValueError) else "too many tables within tables"
        got = f"{path}, which is not valid TOML: {where}"
        raise InputError(what, got=got, expected=expected) from error
    except (ValueError, TypeError) as error:  # a path that none can be, a number of 5,000 digits
        raise InputError(what, got=repr(path), expected=expected) from error
    raise InputError(what, got=f"{path}, of more than 16 MiB", expected=expected)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, its line ends as they are; see `replacing`."""
    write_bytes(path, text.encode())


def append_text(path: Path, text: str) -> None:
    """Add to a text file in UTF-8; a kill may leave a part of the last line."""
    with reaching(path), path.open("ab") as file:
        file.write(text.encode())


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file, its head first; a last line without its end is none.

    To be called within `reading`: a row that has not as many cells as the head is a `ValueError`.
    """
    text = path.read_text("utf-8") if path.exists() else ""
    rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(f"line {number} has {len(row)} cells, the head {len(rows[0])}")
    return rows


def write_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file, its head first; see `replacing`."""
    table = StringIO(newline="")
    csv.writer(table).writerows(rows)
    write_text(path, table.getvalue())


def save_tensors(path: Path, content: object) -> None:
    """Write tensors and plain values, with a checksum of each tensor; see `replacing`."""
    buffer = BytesIO()  # a writer of torch ends the process where a disk is full
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def load_tensors(path: Path) -> Any:  # noqa: ANN401 - what was saved
    """Read what `save_tensors` wrote, and run nothing in it; to be called within `reading`."""
    with zipfile.ZipFile(path) as records:
        wrong = records.testzip()  # torch itself does not look at the checksums
    if wrong is not None:
        raise ValueError(f"the checksum of {wrong} is wrong")
    return torch.load(path, weights_only=True, map_location="cpu")


def digest_of(tensors: Iterable[Tensor | None]) -> str:
    """SHA-256 of the bytes of some tensors; neither shapes, types nor None enter."""
    digest = sha256()
    for values in tensors:
        if values is not None:
            for piece in values.detach().reshape(-1).split(_NUMBERS):
                digest.update(bytes_of(piece))
    return digest.hexdigest()


def key_of(identity: str, *tensors: Tensor | None) -> bytes:
    """16 bytes that tell a question from all others: who answers it, and the exact tensors.

    Of these type, shape and every bit enter; None is passed over.
    """
    digest = blake2b(identity.encode(), digest_size=_KEY)
    for values in tensors:
        if values is not None:
            digest.update(f"|{values.dtype} {tuple(values.shape)}|".encode())
            digest.update(bytes_of(values))
    return digest.digest()


def identity_of(description: str, files: Iterable[Path] = ()) -> str:
    """A digest of who somebody is, in hexadecimal: a description, and the content of files."""
    digest = blake2b(description.encode(), digest_size=_KEY)
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def bytes_of(values: Tensor) -> bytes:
    """The numbers of a tensor in the order of its axes, as they lie in memory."""
    return values.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
