"""The oracle of a network's weights in other processes: a chunk of probes is a worker's task."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zopde.contracts import Objective, Tally
from zopde.errors import first_line
from zopde.oracle.shipping import Shipment, Ticket, borrow, load
from zopde.oracle.weights import WeightOracle
from zopde.validate import checked

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

_SINGLES = 8  # probes per task where each is a pass of its own
# Threads of a worker take turns: torch.fx changes nn.Module while it traces.
_turn = threading.Lock()


def finished(
    executor: Executor, work: Callable[[T], R], tasks: Sequence[T]
) -> Iterator[tuple[int, R]]:
    """(n, work(tasks[n])) for every task, in the order in which they finish.

    Work and tasks must pickle. A task that was lost with its worker is submitted again.

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
                number = running.pop(future)  # and with it what it holds
                if not isinstance(future.exception(), BrokenExecutor):
                    left.remove(number)
                    yield number, future.result()
        except BaseException:
            for future in running:
                future.cancel()
            raise


@final
class Sharing(Executor):
    """An executor whose workers find in a folder, on every machine, what is sent to them once.

    Args:
        executor: Who does the work.
        folder: On a disk that all machines share.
    """

    def __init__(self, executor: Executor, folder: Path) -> None:
        self._executor, self.folder = executor, folder

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """As the executor itself does."""
        return self._executor.submit(fn, *args, **kwargs)


def in_turn(run: Callable[..., R], *arguments: object) -> R:
    """Run a worker's task: one thread at a time, and an error is one that pickles."""
    try:
        with _turn:
            return run(*arguments)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # one that does not unpickle would break the pool
            text = f"{type(error).__name__} in a worker: {first_line(error)}"
            raise RuntimeError(text) from None
        raise


@final
class ExecutorOracle(WeightOracle):
    """Evaluates the probes of a network's weights in other processes, as `WeightOracle` does here.

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

    @checked
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
        # This process numbers the weights and verifies, for all workers, which can be stacked.
        super().__init__(network, objective, chunk, stacked=stacked)
        default = torch.get_default_dtype()
        self._version = _Version(network, objective, chunk, stacked, (), default)
        self._executor, self._kept = executor, tuple(kept)
        self._shipment = Shipment(self._kept, folder)

    def base(self) -> Float[Tensor, ""]:
        """l(theta): one query, by a worker too, so that the bits agree."""
        return self._losses([_Task([], [])])[0][0]

    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(theta + mu e_i) for every i: k queries; see `zopde.contracts.Oracle`.

        Raises:
            InputError: If network or objective do not pickle.
            SolverError: If the solver fails in a worker, or workers die again and again.
        """
        if not len(indices):
            return torch.zeros(0)
        self.refresh()
        chunk = self._version.chunk
        order = torch.argsort(indices, stable=True)
        together = self.stackable(indices[order])
        every = [*order[together].split(chunk), *order[~together].split(_SINGLES)]
        chunks = [chunk for chunk in every if len(chunk)]
        steps = torch.as_tensor(mu, dtype=torch.float64).expand(len(indices))
        losses = self._losses([_Task(indices[c].tolist(), steps[c].tolist()) for c in chunks])
        if self.verify(min(chunk, len(indices))):  # what the workers met is wrong
            return self.coordinates(indices, mu)
        result = losses[0].new_empty(len(indices))
        result[torch.cat(chunks).to(result.device)] = torch.cat(losses)
        return result

    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(theta + mu u_j) for every row u_j: q queries; see `zopde.contracts.Oracle`.

        The rows travel as files: each is as long as the weights.
        """
        if not len(directions):
            return torch.zeros(0)
        per_pass = self.directions_per_pass
        chunks = directions.split(per_pass)
        # A view would be pickled with everything that it is a view of.
        with self._shipment.lent(chunk.clone() for chunk in chunks) as names:
            losses = torch.cat(self._losses([_Task([], [mu], name) for name in names]))
        wrong = self.verify(min(per_pass, len(directions)), along=True)
        return self.directions(directions, mu) if wrong else losses

    def under(self, objective: Objective) -> ExecutorOracle:
        """The same network under another objective; see `WeightOracle.under`."""
        other = super().under(objective)
        other._version = replace(self._version, objective=objective)
        return other

    def _losses(self, tasks: Sequence[_Task]) -> list[Tensor]:
        """The losses of every task; what the workers counted is added to the tallies."""
        draws, plain = self.draws, tuple(sorted(self.plain))
        work = partial(in_turn, _run, self._shipment.publish(replace(self._version, plain=plain)))
        tasks = [replace(task, start=pickle.dumps(draws.start)) for task in tasks]
        losses: dict[int, Tensor] = {}
        for number, result in finished(self._executor, work, tasks):
            for tally, counts in zip(_tallies(self._kept), result.counts, strict=True):
                tally.add(counts)
            self.seen |= result.seen
            if number == 0:  # whoever finishes first must not decide
                draws.after = draws.after or pickle.loads(result.after)
            losses[number] = torch.tensor(result.losses, dtype=result.dtype, device=result.device)
        return [losses[number] for number in range(len(tasks))]


@dataclass(frozen=True)
class _Version:
    """What is written to a file for the workers."""

    network: nn.Module
    objective: Objective
    chunk: int
    stacked: bool
    plain: tuple[str, ...]  # what is to be asked one at a time
    default_dtype: torch.dtype

    def oracle(self) -> WeightOracle:
        # An objective may make tensors of its own.
        if torch.get_default_dtype() != self.default_dtype:
            torch.set_default_dtype(self.default_dtype)
        ask = self.network, self.objective, self.chunk
        made = WeightOracle(*ask, stacked=self.stacked, verify=False)
        made.give_up(self.plain)
        return made


@dataclass(frozen=True)
class _Task:
    """Coordinates and how far each is moved, or lent directions and how far; neither: the base.

    Plain numbers, here and in the result, which a float holds exactly: some executors send
    tensors through shared memory that goes with the process that made it.
    """

    indices: list[int]
    steps: list[float]
    directions: str = ""
    start: bytes = b""  # where the gradient's random numbers start


@dataclass(frozen=True)
class _Result:
    """Losses, what they were made as, and what every kept tally counted."""

    losses: list[float]
    dtype: torch.dtype
    device: str
    counts: list[Counter[str]]
    seen: set[str]
    after: bytes


def _run(ticket: Ticket, task: _Task) -> _Result:
    oracle, kept = load(ticket, _Version.oracle)
    before = [tally.counts() for tally in _tallies(kept)]
    oracle.seen.clear()
    start = pickle.loads(task.start)
    with oracle.draws.gradient(start) if start else nullcontext():
        if task.directions:
            losses = oracle.directions(borrow(ticket, task.directions), task.steps[0])
        elif task.indices:
            steps = torch.tensor(task.steps, dtype=torch.float64)
            losses = oracle.coordinates(torch.tensor(task.indices), steps)
        else:
            losses = oracle.base()[None]
    counts = [tally.counts() - n for tally, n in zip(_tallies(kept), before, strict=True)]
    after = pickle.dumps(oracle.draws.drawn if start else None)
    return _Result(losses.tolist(), losses.dtype, str(losses.device), counts, {*oracle.seen}, after)


def _tallies(kept: Iterable[object]) -> list[Tally]:
    return [thing for thing in kept if isinstance(thing, Tally)]
