"""A solver in a process of its own, which may crash and hang as it likes."""

from __future__ import annotations

import copy
import os
import pickle
import select
import signal
import sys
import threading
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from zopde.blackbox.failures import one_by_one, whole
from zopde.blackbox.wrapper import Wrapper
from zopde.child import Child, ChildPool, EndedError, ending
from zopde.contracts import Forcing, Seeded, Solver, State, seeded
from zopde.errors import InputError, SolverError, StepError, first_line
from zopde.memory import keep_freed_memory
from zopde.plugins import import_user_files, user_files
from zopde.validate import MOST_SECONDS, check_positive

_HEAD = 8  # bytes that say how long a message is
_START = 300.0  # seconds that a child may take to import everything
_COMMAND = (sys.executable, "-c", "from zopde.blackbox.apart import serve; serve()")


@final
class Apart(Wrapper):
    """Runs a solver in a child process; a crash or a hang is a failed step.

    The child starts at the first step, holds a copy of the solver, and is replaced when it dies.
    It works with one torch thread on the CPU; the last lines that it prints go into the failure
    of a state. States are sent one at a time, so that one that crashes the solver takes no
    other along.

    Args:
        solver: The solver, which pickles; its class lives in a module or a solver file.
        timeout: Seconds that one state may take, > 0; None waits for ever.

    Raises:
        InputError: If `timeout` is not positive, or the solver does not pickle.
    """

    def __init__(self, solver: Solver, timeout: float | None = None) -> None:
        super().__init__(solver)
        if timeout is not None:
            check_positive("timeout", timeout, MOST_SECONDS)
        try:
            self._pickled = pickle.dumps(solver)
        except Exception as error:  # a user's object may raise anything
            got, expected = f"{type(error).__name__}: {first_line(error)}", "one that pickles"
            remedy = "define its class at the top of a module, without lambdas inside"
            raise InputError("a solver apart", got=got, expected=expected, remedy=remedy) from error
        self._timeout, self._seed = timeout, -1
        self._pool = ChildPool(partial(Child, _COMMAND))

    def with_seed(self, seed: int) -> Apart:
        """See `Wrapper`; the child stays the same."""
        if not isinstance(self._solver, Seeded):
            return self
        twin = copy.copy(self)
        twin._seed = seed
        return twin

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`.

        Raises:
            SolverError: With the states at which the solver failed, crashed or hung.
        """
        return whole(*one_by_one(self._ask, state, forcing))

    def _ask(self, state: State, forcing: Forcing | None) -> Any:  # noqa: ANN401 - what it answers
        # A view would be pickled with everything that it is a view of.
        content = (state.cpu().clone(), forcing if forcing is None else forcing.cpu().clone())
        with self._pool.lent() as child:
            if child.fresh:
                start = pickle.dumps((sys.path, user_files())) + self._pickled
                kind, answer = _exchange(child, start, _START)
                if kind == "error":
                    raise child.failed(f"the solver's process did not start: {answer}")
            kind, answer = _exchange(child, pickle.dumps((*content, self._seed)), self._timeout)
            log = child.last_lines() if kind == "error" else ""
        if kind == "error":
            raise StepError(answer, log=log)
        # What is no state is left to `BlackBox` to refuse.
        return answer.to(state.device) if isinstance(answer, Tensor) else answer


def _exchange(child: Child, message: bytes, timeout: float | None) -> tuple[str, Any]:
    length = partial(int.from_bytes, byteorder="little")
    try:
        kind, content = pickle.loads(child.exchange(message, _HEAD, length, timeout))
    except EndedError as error:
        raise child.failed(f"the solver's process {ending(*error.args)}") from None
    return kind, content


def serve() -> None:
    """What the child does: read a state, step it, write the answer, until the pipe closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the solver prints goes to the log
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()

    def reply(kind: str, content: object = None) -> None:
        data = pickle.dumps((kind, content))
        answers.write(len(data).to_bytes(_HEAD, "little") + data)
        answers.flush()

    try:
        sys.path[:], files = pickle.load(sys.stdin.buffer)
        import_user_files(files)
        solver: Solver = pickle.load(sys.stdin.buffer)
    except BaseException as error:  # the parent says it
        reply("error", f"{type(error).__name__}: {error}")
        return
    reply("ready")
    while True:
        reply(*_answer(solver, *pickle.load(sys.stdin.buffer)))


def _answer(solver: Solver, state: State, forcing: Forcing | None, seed: int) -> tuple[str, object]:
    try:
        with torch.no_grad():
            return "answer", (solver if seed < 0 else seeded(solver, seed)).step(state, forcing)
    except SolverError as error:
        return "error", str(error)
    except BaseException as error:  # it is the user's code and may raise anything
        return "error", f"step raised {type(error).__name__}: {first_line(error)}"


def _end_with_the_parent() -> None:
    """End this process, even in a step that never returns, when the one that waits ends."""
    poll = select.poll()
    poll.register(0, 0)  # only for its end
    poll.poll()
    os.killpg(0, signal.SIGKILL)
