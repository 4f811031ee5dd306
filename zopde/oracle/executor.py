"""The oracle of a network's weights, answered by other processes.

Tasks for an executor, given to it again where a worker died with them.
"""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zopde.contracts import Objective, Tally
from zopde.errors import first_line
from zopde.oracle.shipping import Parcels, Ticket, borrow, load
from zopde.oracle.weights import WeightOracle

T = TypeVar("T")
R = TypeVar("R")


def answered(
    executor: Executor, work: Callable[[T], R], tasks: Sequence[T]
) -> Iterator[tuple[int, R]]:
    """(n, work(tasks[n])) for every task, in the order in which they are done.

    Args:
        executor: Anything with the interface of `concurrent.futures.Executor`.
        work: Must pickle, as must the tasks.
        tasks: What to work on; each is redone until its worker lives to answer.

    Raises:
        SolverError: If workers die again and again; and whatever `work` raises.
    """
    left = set(range(len(tasks)))
    while left:
        running: dict[Future[R], int] = {}
        try:
            for number in sorted(left):
                running[executor.submit(work, tasks[number])] = number
            for future in as_completed(running):
                if not isinstance(future.exception(), BrokenExecutor):
                    left.remove(running[future])
                    yield running[future], future.result()
        except BaseException:
            for future in running:
                future.cancel()
            raise


_SINGLES = 8  # probes per task where each is a pass of its own
# Threads of a worker take turns: torch.fx changes nn.Module while it traces.
_turn = threading.Lock()


@final
class ExecutorOracle:
    """Answers l(theta + mu e_i) like `WeightOracle`, chunks side by side on an executor.

    A task is (base version, coordinates, mu). The base itself (network, objective) is written
    to a file once per version and loaded once by every worker that meets it, so a replaced
    worker needs nothing but its next task. Tasks that an executor lost with a worker are given
    to it again. A change of the network's weights between two calls is a new version.

    The answers depend neither on the number of workers nor on who answers what, bit for bit:
    chunks are cut as `WeightOracle` cuts them, whose answers are the same where it runs with
    the workers' number of torch threads.

    Args:
        network: Any module that pickles; its trainable parameters are theta.
        objective: (network, num_probes) -> losses (num_probes,), which pickles too; see
            `zopde.contracts.Objective`.
        executor: Anything with the interface of `concurrent.futures.Executor`: a
            `zopde.WorkerPool`, or `distributed.Client(...).get_executor()` of Dask. Threads of
            one process take turns, so it is processes that make it faster.
        chunk: Probes per task.
        stacked: As in `WeightOracle`.
        kept: Objects inside the objective that stay the same from version to version, such as
            the solver: sent once. What the workers' copies of a
            `zopde.contracts.Tally` count is added to it.
        folder: Where versions are written; None for this machine's temporary folder. Workers
            on other machines need one on a disk that all share.

    Raises:
        InputError: If `chunk` is not positive or a kept object does not pickle.

    Example: a gradient by four processes::

        if __name__ == "__main__":  # every worker imports this script, too
            with WorkerPool(4) as pool:
                oracle = ExecutorOracle(network, objective, pool, kept=(solver,))
                print(cge(oracle).gradient)
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        executor: Executor,
        chunk: int = 64,
        stacked: bool = True,
        kept: Sequence[object] = (),
        folder: Path | None = None,
    ) -> None:
        # Numbers the weights and says which can be stacked; it is never asked for a loss.
        self._serial = WeightOracle(network, objective, chunk, stacked=stacked)
        self._base = _Base(network, objective, chunk, stacked, torch.get_default_dtype())
        self._executor = executor
        self._chunk = chunk
        self._kept = tuple(kept)
        self._parcels = Parcels(self._kept, folder)

    @property
    def num_coordinates(self) -> int:
        """Number of trainable weights."""
        return self._serial.num_coordinates

    def base(self) -> Float[Tensor, ""]:
        """l(theta): one query, answered by a worker too, so that the bits agree."""
        return self._ask([_Probes([], [])])[0][0]

    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(theta + mu e_i) for every i: k queries; see `zopde.contracts.Oracle`.

        Raises:
            InputError: If network or objective do not pickle.
            SolverError: If the solver fails in a worker, or workers die again and again.
        """
        if not len(indices):
            return torch.zeros(0)
        order = torch.argsort(indices, stable=True)
        together = self._serial.stackable(indices[order])
        rest = order[~together]
        places = [p for p in order[together].split(self._chunk) if len(p)]
        places += [p for p in rest.split(_SINGLES) if len(p)]
        far = torch.as_tensor(mu, dtype=torch.float64).expand(len(indices))
        answers = self._ask([_Probes(indices[p].tolist(), far[p].tolist()) for p in places])
        result = answers[0].new_empty(len(indices))
        result[torch.cat(places).to(result.device)] = torch.cat(answers)
        return result

    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(theta + mu u_j) for every row u_j: q queries; see `zopde.contracts.Oracle`.

        The rows travel as files: each is as long as the weights.
        """
        if not len(directions):
            return torch.zeros(0)
        parts = directions.split(self._serial.directions_per_pass)
        # A view would be pickled with everything that it is a view of.
        with self._parcels.lent(part.clone() for part in parts) as names:
            return torch.cat(self._ask([_Probes([], [mu], name) for name in names]))

    def set_gradient(self, gradient: Float[Tensor, " d"]) -> None:
        """Put an estimate into `.grad`; see `WeightOracle.set_gradient`."""
        self._serial.set_gradient(gradient)

    def _ask(self, tasks: Sequence[_Probes]) -> list[Tensor]:
        """The losses of every task, each redone until its worker lives to answer."""
        ticket = self._parcels.publish(self._base)
        work = partial(_answer, ticket)
        answers = {n: self._received(a) for n, a in answered(self._executor, work, tasks)}
        return [answers[number] for number in range(len(tasks))]

    def _received(self, answer: _Answer) -> Tensor:
        for tally, counted in zip(_tallies(self._kept), answer.counted, strict=True):
            tally.add(counted)
        return torch.tensor(answer.losses, dtype=answer.dtype, device=answer.device)


@dataclass(frozen=True)
class _Base:
    """What a version consists of."""

    network: nn.Module
    objective: Objective
    chunk: int
    stacked: bool
    default_dtype: torch.dtype

    def oracle(self) -> WeightOracle:
        # An objective may make tensors of its own.
        if torch.get_default_dtype() != self.default_dtype:
            torch.set_default_dtype(self.default_dtype)
        return WeightOracle(self.network, self.objective, self.chunk, stacked=self.stacked)


@dataclass(frozen=True)
class _Probes:
    """A task: coordinates and how far each is moved, or lent directions and how far along.

    Neither asks for the base itself.

    Plain numbers, here and in the answer, which a float holds exactly: some executors send
    tensors through shared memory that goes with the process that made it.
    """

    indices: list[int]
    far: list[float]
    directions: str = ""


@dataclass(frozen=True)
class _Answer:
    """Losses, what they were made as, and what every kept tally counted."""

    losses: list[float]
    dtype: torch.dtype
    device: str
    counted: list[Counter[str]]


def _answer(ticket: Ticket, probes: _Probes) -> _Answer:
    """A worker's part."""
    try:
        with _turn:
            return _answer_here(ticket, probes)
    except Exception as error:
        if _travels(error):
            raise
        raise RuntimeError(f"{type(error).__name__} in a worker: {first_line(error)}") from None


def _answer_here(ticket: Ticket, probes: _Probes) -> _Answer:
    oracle, kept = load(ticket, _Base.oracle)
    before = [tally.counts() for tally in _tallies(kept)]
    if probes.directions:
        losses = oracle.directions(borrow(ticket, probes.directions), probes.far[0])
    elif probes.indices:
        far = torch.tensor(probes.far, dtype=torch.float64)
        losses = oracle.coordinates(torch.tensor(probes.indices), far)
    else:
        losses = oracle.base()[None]
    counted = [tally.counts() - n for tally, n in zip(_tallies(kept), before, strict=True)]
    return _Answer(losses.tolist(), losses.dtype, str(losses.device), counted)


def _tallies(kept: Iterable[object]) -> list[Tally]:
    return [thing for thing in kept if isinstance(thing, Tally)]


def _travels(error: Exception) -> bool:
    """Whether an error arrives as itself; one that does not unpickle would break the pool."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does
        return False
    return True
