"""Answers of expensive solvers, kept on disk."""

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
from torch import Tensor

from zopde.blackbox.failures import error_of
from zopde.blackbox.wrapper import Wrapper
from zopde.contracts import Forcing, Solver, State
from zopde.errors import Failure, InputError, SolverError
from zopde.files import bytes_of, key_of
from zopde.validate import check_count, check_positive

log = logging.getLogger(__name__)

_DIGEST = 16  # bytes
_GIB = 2**30
_AT_ONCE = 500  # keys of one query
_WAIT = 60.0  # seconds for another process to finish writing
_AGAIN = 0.01  # seconds before a busy file is opened again
_TABLE = """CREATE TABLE IF NOT EXISTS answers
    (number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB UNIQUE, answer BLOB, digest BLOB)"""


@final
class Store:
    """Bytes by key in an SQLite file, for many processes of one machine at once.

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
        self._open: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection()
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                "store", got=f"{path} ({error})", expected="a new file or one of a store"
            ) from error

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """What is there of these keys."""
        found: dict[bytes, bytes] = {}
        with self._lock:
            for first in range(0, len(keys), _AT_ONCE):
                some = keys[first : first + _AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, answer, digest FROM answers WHERE key IN ({marks})"
                try:
                    rows = self._connection().execute(query, some).fetchall()
                except sqlite3.Error as error:  # then the solver is asked
                    log.warning("store %s: %s", self._path, error)
                    continue
                found |= {key: answer for key, answer, digest in rows if _of(answer) == digest}
        return found

    def write(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep some answers; all of them or none."""
        rows = [(key, answer, _of(answer)) for key, answer in entries]
        with self._lock:
            try:
                with self._connection() as open_now:
                    statement = (
                        "INSERT OR REPLACE INTO answers (key, answer, digest) VALUES (?,?,?)"
                    )
                    open_now.executemany(statement, rows)
                    self._make_room(open_now)
            except sqlite3.Error as error:  # a full disk must not end a run
                log.warning("store %s: %s", self._path, error)

    def _make_room(self, open_now: sqlite3.Connection) -> None:
        def number(query: str) -> int:
            return int(open_now.execute(query).fetchone()[0])

        used = number("PRAGMA page_count") - number("PRAGMA freelist_count")
        if used * number("PRAGMA page_size") > self._limit:
            tenth = number("SELECT count(*) FROM answers") // 10 + 1
            oldest = "SELECT number FROM answers ORDER BY number LIMIT ?"
            open_now.execute(f"DELETE FROM answers WHERE number IN ({oldest})", (tenth,))

    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            self._open = _opened(self._path)
        return self._open

    def __getstate__(self) -> dict[str, Any]:
        # A connection belongs to one process.
        return {"_path": self._path, "_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _open=None)


@final
class Stored(Wrapper):
    """A solver that is never asked the same thing twice.

    A state's key is a digest of who the solver is, its seed, and the exact bytes of the state and
    its forcing. Answers that are not finite are not kept. What comes from the store is counted as
    "stored".

    Args:
        solver: The solver inside, whose answer to a state does not depend on its batch.
        store: Where answers are kept.
        identity: Who the solver is: everything but its input that decides the answer.
        at_once: States of a call at most, after which their answers are kept: what a kill loses.

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
            SolverError: With the states that failed; what the others answered is kept.
        """
        keys = [
            key_of(self._identity, state[i], None if forcing is None else forcing[i])
            for i in range(len(state))
        ]
        known = self._store.read(keys)
        answers = torch.empty_like(state, memory_format=torch.contiguous_format)
        missing = []
        for i, key in enumerate(keys):
            if len(known.get(key, b"")) == answers[i].numel() * answers.element_size():
                answers[i] = _values(known[key], answers[i])
            else:
                missing.append(i)
        self._counts["stored"] += len(keys) - len(missing)
        failures: list[Failure] = []
        for first in range(0, len(missing), self._at_once):
            rows = torch.tensor(missing[first : first + self._at_once], device=state.device)
            answers[rows], found = self._ask(
                state[rows], None if forcing is None else forcing[rows]
            )
            failures += [replace(failure, row=int(rows[failure.row])) for failure in found]
            good = [int(row) for row in rows if bool(answers[row].isfinite().all())]
            self._store.write((keys[row], bytes_of(answers[row])) for row in good)
        if failures:
            raise error_of(failures, answers)
        return answers

    def _ask(self, state: State, forcing: Forcing | None) -> tuple[State, Sequence[Failure]]:
        try:
            return self._solver.step(state, forcing), []
        except SolverError as error:
            if error.answers is None or error.answers.shape != state.shape:
                raise
            return error.answers.to(state), error.failures


def _opened(path: Path) -> sqlite3.Connection:
    """Of those that open a new file together one sets it up; the others try again."""
    latest = time.monotonic() + _WAIT
    while True:
        made = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False)
        try:
            made.execute("PRAGMA journal_mode=WAL")
            made.execute("PRAGMA synchronous=NORMAL")
            with made:
                made.execute(_TABLE)
            return made
        except sqlite3.Error as error:
            made.close()
            # For this change of mode SQLite's own time-out does not count.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > latest:
                raise
        time.sleep(_AGAIN)


def _of(answer: bytes) -> bytes:
    return blake2b(answer, digest_size=_DIGEST).digest()


def _values(data: bytes, like: Tensor) -> Tensor:
    flat = torch.frombuffer(bytearray(data), dtype=like.dtype)
    return flat.view(like.shape).to(like.device)
