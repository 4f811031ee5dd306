"""The child's side of a solver apart: read a state, step it, write the answer."""

from __future__ import annotations

import os
import pickle
import sys
from typing import IO

import torch

from zopde.errors import SolverError, first_line
from zopde.memory import keep_freed_memory
from zopde.plugins import import_user_files
from zopde.protocols import Solver, seeded

LENGTH = 8  # bytes that say how long a message is


def serve() -> None:
    """Answer until the pipe closes. What the solver prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        path, files = pickle.loads(read_message(sys.stdin.buffer))
        sys.path[:] = path
        import_user_files(files)
        solver: Solver = pickle.loads(read_message(sys.stdin.buffer))
    except Exception as error:  # the parent says it
        write_message(replies, pickle.dumps(("error", f"{type(error).__name__}: {error}")))
        return
    write_message(replies, pickle.dumps(("ready", None)))
    while data := read_message(sys.stdin.buffer):
        write_message(replies, pickle.dumps(_reply(solver, data)))


def _reply(solver: Solver, data: bytes) -> tuple[str, object]:
    state, forcing, seed = pickle.loads(data)
    try:
        with torch.no_grad():
            asked = solver if seed < 0 else seeded(solver, seed)
            return "answer", asked.step(state, forcing)
    except SolverError as error:
        return "error", str(error)
    except Exception as error:  # it is the user's code and may raise anything
        return "error", f"step raised {type(error).__name__}: {first_line(error)}"


def read_message(file: IO[bytes]) -> bytes:
    """The next message; nothing where the pipe is closed."""
    return file.read(int.from_bytes(file.read(LENGTH), "little"))


def write_message(file: IO[bytes], data: bytes) -> None:
    """Its length, then itself."""
    file.write(len(data).to_bytes(LENGTH, "little") + data)
    file.flush()
