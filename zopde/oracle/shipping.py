"""Objects that other processes load by themselves, each of them once."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, final

from zopde.errors import InputError, first_line
from zopde.files import write_bytes
from zopde.plugins import UserFile, import_user_files, user_files

T = TypeVar("T")
_REMEMBERED = 2  # objects of a kind that a worker remembers
_NEED = "what workers need"  # in an error


@dataclass(frozen=True)
class Ticket:
    """What a worker needs to find a published object."""

    folder: str  # where the files lie
    version: str  # name of the object's file: a digest of its content
    kept: str  # name of the file with what all its versions share
    # Solver files whose classes are inside; see `zopde.plugins.user_files`
    files: tuple[UserFile, ...]


@final
class Shipment:
    """A folder of pickled objects, named after their content.

    Publishing the same content again writes nothing, and a worker that has loaded a version
    never reads it again. The folder is deleted with this object.

    Args:
        kept: Objects that stay the same from version to version and are costly to make anew,
            such as a solver with its compiled step; sent once and shared by all versions.
        folder: Where workers can read; None for the temporary folder of this machine.

    Raises:
        InputError: If a kept object cannot be pickled.
    """

    def __init__(self, kept: Sequence[object] = (), folder: Path | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="zopde-", dir=folder))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._kept = tuple(kept)  # held, so that no id is used twice
        self._numbers: dict[int, int] = {}
        self._kept_name = self._write(self._kept)
        self._numbers = {id(thing): number for number, thing in enumerate(kept)}
        self._version = ""

    def publish(self, content: object) -> Ticket:
        """Make `content` loadable as it is now; the version before is deleted.

        Raises:
            InputError: If it cannot be pickled.
        """
        version = self._write(content)
        if self._version not in ("", version, self._kept_name):
            (self._folder / self._version).unlink(missing_ok=True)
        self._version = version
        return Ticket(str(self._folder), version, self._kept_name, user_files())

    @contextmanager
    def lent(self, contents: Iterable[object]) -> Iterator[list[str]]:
        """Names under which `borrow` finds these objects, inside the context only."""
        names = [self._write(content) for content in contents]
        try:
            yield names
        finally:
            for name in {*names} - {self._kept_name, self._version}:
                (self._folder / name).unlink(missing_ok=True)

    def _write(self, content: object) -> str:
        file = BytesIO()
        pickler = pickle.Pickler(file, protocol=pickle.HIGHEST_PROTOCOL)
        # What is kept is written as its number.
        pickler.persistent_id = lambda obj: self._numbers.get(id(obj))  # type: ignore[method-assign]
        try:
            pickler.dump(content)
        except Exception as error:  # a user's object may raise anything
            got = f"{type(error).__name__}: {first_line(error)}"
            expected = "a network, an objective and a solver that pickle"
            remedy = "define classes and functions at the top of a module, or take no workers"
            raise InputError(_NEED, got=got, expected=expected, remedy=remedy) from error
        data = file.getvalue()
        name = blake2b(data, digest_size=16).hexdigest()
        path = self._folder / name
        if not path.exists():
            write_bytes(path, data, durable=False)
        return name


# What this process has loaded.
_kept: OrderedDict[str, tuple[Any, ...]] = OrderedDict()
_made: OrderedDict[tuple[str, str], Any] = OrderedDict()


def load(ticket: Ticket, make: Callable[[Any], T]) -> tuple[T, tuple[Any, ...]]:
    """The published object, made ready for use, and what its versions share.

    `make` is called once per version with the object, its result remembered. One thread at a time.

    Raises:
        InputError: If the folder cannot be read here.
    """
    if ticket.kept not in _kept:
        import_user_files(ticket.files)
        _remember(_kept, ticket.kept, borrow(ticket, ticket.kept))
    kept = _kept[ticket.kept]
    key = (ticket.version, ticket.kept)
    if key not in _made:
        import_user_files(ticket.files)
        _remember(_made, key, make(borrow(ticket, ticket.version, kept)))
    made: T = _made[key]
    return made, kept


def _remember(loaded: OrderedDict[Any, Any], key: object, value: object) -> None:
    loaded[key] = value
    while len(loaded) > _REMEMBERED:
        loaded.popitem(last=False)


def borrow(ticket: Ticket, name: str, kept: tuple[Any, ...] = ()) -> Any:  # noqa: ANN401
    """An object, such as one of `Shipment.lent`, read anew and not remembered."""
    try:
        unpickler = pickle.Unpickler(BytesIO((Path(ticket.folder) / name).read_bytes()))
    except OSError as error:
        got = f"{ticket.folder} ({error.strerror}) in a worker"
        expected = "a folder that every worker can read"
        remedy = "set run.scratch, or a `folder`, on a disk that all machines share"
        raise InputError("folder", got=got, expected=expected, remedy=remedy) from error
    unpickler.persistent_load = kept.__getitem__  # type: ignore[method-assign]
    try:
        return unpickler.load()
    except (ImportError, AttributeError) as error:
        got = f"{type(error).__name__}: {first_line(error)} in a worker"
        expected = "classes of modules that a worker can import"
        raise InputError(_NEED, got=got, expected=expected) from error
