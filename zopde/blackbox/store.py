"""Steps of expensive solvers, kept on disk."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, final

import torch

from zopde.blackbox.failures import Stepped, whole
from zopde.blackbox.wrapper import Wrapper
from zopde.contracts import Forcing, Solver, State
from zopde.errors import Failure, InputError, SolverError
from zopde.files import bytes_of, key_of
from zopde.validate import check_count, check_positive

log = logging.getLogger(__name__)

_GIB = 2**30
_KEYS = 500  # of one query
_WAIT, _AGAIN = 60.0, 0.01  # seconds for another process to finish writing, and between attempts
_TABLE = """CREATE TABLE IF NOT EXISTS answers
    (number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB UNIQUE, answer BLOB, digest BLOB)"""
_WRITE = "INSERT OR REPLACE INTO answers (key, answer, digest) VALUES (?,?,?)"
_DROP = "DELETE FROM answers WHERE number IN (SELECT number FROM answers ORDER BY number LIMIT ?)"


@final
class Store:
    """Keeps bytes by key in an SQLite file that many processes of one machine use at once.

    What is written stays through a kill of the process. An entry whose content is not what was
    written is as good as none. Beyond the limit the oldest entries go.

    Args:
        path: The file; made where there is none, with its folder. Not on a network disk.
        limit_gib: Size of the file at most, > 0.

    Raises:
        InputError: If the file cannot be opened, or is no store.
    """

    def __init__(self, path: Path, limit_gib: float = 10.0) -> None:
        check_positive("limit_gib", limit_gib)
        self._path, self._limit = path, limit_gib * _GIB
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection()
        except (OSError, sqlite3.Error) as error:
            expected = "a new file or one of a store"
            raise InputError("store", got=f"{path} ({error})", expected=expected) from error

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """What is there of these keys."""
        known: dict[bytes, bytes] = {}
        with self._lock:
            for first in range(0, len(keys), _KEYS):
                some = keys[first : first + _KEYS]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, answer, digest FROM answers WHERE key IN ({marks})"
                try:
                    rows = self._connection().execute(query, some).fetchall()
                except sqlite3.Error as error:  # then the solver is stepped
                    log.warning("store %s: %s", self._path, error)
                    continue
                known |= {row[0]: row[1] for row in rows if _is_right(*row)}
        return known

    def write(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep some entries; all of them or none."""
        rows = [(key, answer, _of(key + answer)) for key, answer in entries]
        with self._lock:
            try:
                with self._connection() as database:
                    database.executemany(_WRITE, rows)
                    self._make_room(database)
            except sqlite3.Error as error:  # a full disk must not end a run
                log.warning("store %s: %s", self._path, error)

    def _make_room(self, database: sqlite3.Connection) -> None:
        def number(query: str) -> int:
            return int(database.execute(query).fetchone()[0])

        used = number("PRAGMA page_count") - number("PRAGMA freelist_count")
        if used * number("PRAGMA page_size") > self._limit:
            database.execute(_DROP, (number("SELECT count(*) FROM answers") // 10 + 1,))

    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = _opened(self._path)
        return self._database

    def __getstate__(self) -> dict[str, Any]:
        # A connection belongs to one process.
        return {"_path": self._path, "_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _database=None)


@final
class Stored(Wrapper):
    """Keeps every step of a solver in a file, so that none is made twice.

    A state's key is a digest of who the solver is, its seed, and the exact bytes of the state and
    its forcing. Steps that are not finite are not kept. What comes from the store is counted as
    "stored".

    Args:
        solver: The solver inside, whose step of a state does not depend on its batch.
        store: Where steps are kept.
        identity: Who the solver is: everything but its input that decides the step.
        at_once: States of a call at most, after which their steps are kept: what a kill loses.

    Raises:
        InputError: If `at_once` is no whole number >= 1.
    """

    def __init__(self, solver: Solver, store: Store, identity: str, at_once: int = 64) -> None:
        super().__init__(solver)
        check_count("at_once", at_once)
        self._store, self._identity, self._at_once = store, identity, at_once

    def with_seed(self, seed: int) -> Stored:
        """See `Wrapper`; another seed is another solver."""
        twin = super().with_seed(seed)
        if twin is not self:
            twin._identity = f"{self._identity} {seed}"
        return twin

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`.

        Raises:
            SolverError: With the states that failed; the steps of the others are kept.
        """
        forcings = [None] * len(state) if forcing is None else list(forcing)
        keys = [key_of(self._identity, *row) for row in zip(state, forcings, strict=True)]
        known = self._store.read(keys)
        stepped = torch.empty_like(state, memory_format=torch.contiguous_format)
        missing = []
        for i, key in enumerate(keys):
            if len(known.get(key, b"")) == stepped[i].numel() * stepped.element_size():
                values = torch.frombuffer(bytearray(known[key]), dtype=stepped.dtype)
                stepped[i] = values.view(stepped.shape[1:])
            else:
                missing.append(i)
        self._counts["stored"] += len(keys) - len(missing)
        failures: list[Failure] = []
        for first in range(0, len(missing), self._at_once):
            rows = torch.tensor(missing[first : first + self._at_once], device=state.device)
            some = None if forcing is None else forcing[rows]
            stepped[rows], failed = self._step(state[rows], some)
            failures += [replace(failure, row=int(rows[failure.row])) for failure in failed]
            good = [int(row) for row in rows if bool(stepped[row].isfinite().all())]
            self._store.write((keys[row], bytes_of(stepped[row])) for row in good)
        return whole(stepped, failures)

    def _step(self, state: State, forcing: Forcing | None) -> Stepped:
        try:
            return self._solver.step(state, forcing), []
        except SolverError as error:
            if error.answers is None or error.answers.shape != state.shape:
                raise
            return error.answers.to(state), list(error.failures)


def _opened(path: Path) -> sqlite3.Connection:
    """Of those that open a new file together one sets it up; the others try again."""
    latest = time.monotonic() + _WAIT
    while True:
        database = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            with database:
                database.execute(_TABLE)
            return database
        except sqlite3.Error as error:
            database.close()
            # For this change of mode SQLite's own time-out does not count.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > latest:
                raise
        time.sleep(_AGAIN)


def _is_right(key: object, answer: object, digest: object) -> bool:
    """Whether an entry is as it was written; older versions took the digest of the answer alone."""
    if not (isinstance(key, bytes) and isinstance(answer, bytes)):
        return False
    return digest in (_of(key + answer), _of(answer))


def _of(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()
