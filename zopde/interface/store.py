"""Jacobians on disk, each measured once and found again by what it was measured from.

The responses to single entries, split into solver calls that can be answered anywhere.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Tally
from zopde.errors import InputError
from zopde.interface.differences import check_probing, check_whole, entry_responses, probes_per_call
from zopde.interface.forms import Form, Jacobian
from zopde.interface.vjp import Step
from zopde.oracle.executor import finished
from zopde.oracle.shipping import Shipment, Ticket, load
from zopde.zo.cge import Scheme


@dataclass(frozen=True)
class Call:
    """Some entries of the varied input of one state.

    Args:
        row: Which state of the step's batch.
        first: The first entry.
        count: How many from there.
    """

    row: int
    first: int
    count: int


def calls_for(step: Step, scheme: Scheme, states: int) -> list[Call]:
    """Every entry of every state; no call takes more than `states` states, or two rows."""
    entries, chunk = step.point[0].numel(), probes_per_call(states, scheme)
    return [
        Call(row, first, min(chunk, entries - first))
        for row in range(len(step.point))
        for first in range(0, entries, chunk)
    ]


def responses_to(
    step: Step, call: Call, mu: float, scheme: Scheme
) -> Float[Tensor, "probes outputs"]:
    """J e_j for the entries of a call.

    Raises:
        SolverError: If a probe failed.
    """
    entries = torch.arange(call.first, call.first + call.count, device=step.point.device)
    rows = torch.full_like(entries, call.row)
    found = entry_responses(step, rows, entries, mu, scheme)
    check_whole(found)
    return found.flatten(1)


def answer_calls(
    step: Step,
    calls: Sequence[Call],
    mu: float,
    scheme: Scheme,
    executor: Executor | None = None,
) -> Iterator[tuple[Call, Float[Tensor, "probes outputs"]]]:
    """The responses to every call in float32, as they come.

    Args:
        step: Where; its solver must pickle for an executor.
        calls: From `calls_for`.
        mu: Finite-difference step, in the units of the varied input.
        scheme: "forward" or "central".
        executor: Who answers; None is this process. The numbers do not depend on it, where
            its processes have as many threads as this one.
    """
    if executor is None:
        for call in calls:
            yield call, responses_to(step, call, mu, scheme).float().cpu()
        return
    shipment = Shipment((step.solver,))
    work = partial(_answer, shipment.publish(step), mu, scheme)
    for number, data in finished(executor, work, calls):
        found = torch.frombuffer(bytearray(data), dtype=torch.float32)
        yield calls[number], found.view(calls[number].count, -1)


def _answer(ticket: Ticket, mu: float, scheme: Scheme, call: Call) -> bytes:
    """A worker's part; plain bytes, since some executors share a tensor's memory."""
    step, _ = load(ticket, _same)
    return responses_to(step, call, mu, scheme).float().cpu().numpy().tobytes()


def _same(step: Step) -> Step:
    return step


# Relative to the largest entry: an answer that is further off is another solver's.
_SAME = 1e-4


@dataclass(frozen=True)
class Probing:
    """How a Jacobian is measured.

    Args:
        mu: Finite-difference step, in the units of the varied input; > 0.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        executor: Who answers the calls; None is this process.
    """

    mu: float = 1e-3
    scheme: Scheme = "forward"
    states: int = 512
    executor: Executor | None = None

    def __post_init__(self) -> None:
        check_probing(self.mu, self.scheme, self.states)

    @property
    def steps(self) -> int:
        """Solver steps that a probe takes."""
        return 2 if self.scheme == "central" else 1


@final
class JacobianStore:
    """A folder of Jacobians in float32, or none: then each is measured and held in memory.

    A file's name is a digest of the identity, the snapshot and the probing, so that runs with
    the same solver share it. It is written once, whole, and then only read (memory-mapped):
    any number of runs may use a folder at a time. Where two measure the same, the later file
    takes the place of an equal one. Each solver call's answers are kept until their Jacobian is
    complete, so that after a crash no answered call is asked again. A file that is cut short,
    or of a solver that answered otherwise at the snapshot, is measured anew.

    Args:
        folder: Where the files lie; None for memory.
        identity: What decides the solver's answers, and nothing else.
        progress: Called with the solver steps of what was found or measured.

    Attributes:
        asked: Solver steps that were taken. The count of a solver that is a
            `zopde.contracts.Tally` goes up by what a Jacobian takes, found or measured, so that
            it does not depend on who came first.
    """

    def __init__(
        self,
        folder: Path | None = None,
        identity: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._folder, self._identity, self._progress = folder, identity, progress
        self.asked = 0

    def fetch(self, step: Step, form: Form, probing: Probing) -> list[Jacobian]:
        """The Jacobian at every state of a step's batch.

        Args:
            step: Where, and of which variable.
            form: How they are kept.
            probing: How they are measured.

        Raises:
            InputError: If the folder cannot be written.
            SolverError: If the solver fails; what was answered before is kept.
        """
        files = [self._file(step, form, probing, row) for row in range(len(step.point))]
        found: dict[int, Tensor] = {}
        for row, file in enumerate(files):
            numbers = self._read(file, form.size, step.stepped[row])
            if numbers is not None:
                found[row] = numbers
        self._done(step, probing, len(found) * step.point[0].numel())
        calls = calls_for(step, probing.scheme, probing.states)
        for row, numbers in self._measured(
            step, form, probing, files, [call for call in calls if call.row not in found]
        ):
            found[row] = numbers
        return [form.open(found[row]) for row in range(len(files))]

    def _measured(
        self, step: Step, form: Form, probing: Probing, files: Sequence[str], calls: list[Call]
    ) -> Iterator[tuple[int, Tensor]]:
        """Answer the calls, and give (row, numbers) of each Jacobian that is complete."""
        width = step.stepped[0].numel()
        parts: dict[Call, Tensor] = {}
        for call in calls:
            known = self._read(
                f"{files[call.row]}.{call.first}", call.count * width, step.stepped[call.row]
            )
            if known is not None:
                parts[call] = known.view(call.count, width)
        self._done(step, probing, sum(call.count for call in parts))
        left = [call for call in calls if call not in parts]
        waiting = {
            row: [call for call in calls if call.row == row]
            for row in dict.fromkeys(call.row for call in calls)
        }

        def complete() -> Iterator[tuple[int, Tensor]]:
            for row, its in list(waiting.items()):
                if all(call in parts for call in its):
                    del waiting[row]
                    whole = torch.cat([parts.pop(call) for call in its])
                    yield row, self._keep(files[row], form.pack(whole), step.stepped[row])
                    for call in its:
                        self._forget(f"{files[row]}.{call.first}")

        yield from complete()
        for call, answers in answer_calls(step, left, probing.mu, probing.scheme, probing.executor):
            self.asked += call.count * probing.steps
            self._done(step, probing, call.count, here=probing.executor is None)
            kept = self._keep(
                f"{files[call.row]}.{call.first}", answers.flatten(), step.stepped[call.row]
            )
            parts[call] = kept.view_as(answers)
            yield from complete()

    def _file(self, step: Step, form: Form, probing: Probing, row: int) -> str:
        said = (self._identity, step.variable, probing.mu, probing.scheme, probing.states)
        digest = blake2b(repr(said).encode(), digest_size=16)
        for values in (step.state, step.forcing):
            if values is not None:
                one = values[row].detach().cpu().contiguous()
                digest.update(f"{tuple(one.shape)} {one.dtype}".encode())
                digest.update(one.numpy().tobytes())
        return f"{digest.hexdigest()}.{form.name}"

    def _read(self, name: str, size: int, stepped: Tensor) -> Tensor | None:
        """The numbers of a file, if it is all there and of this solver."""
        if self._folder is None:
            return None
        path, more = self._folder / name, stepped.numel()
        if not path.is_file() or path.stat().st_size != 4 * (size + more):
            return None
        whole = torch.from_file(str(path), shared=False, size=size + more, dtype=torch.float32)
        answer = stepped.detach().flatten().float().cpu()
        off = (whole[size:] - answer).abs().max()
        return whole[:size] if off <= _SAME * answer.abs().max() else None

    def _keep(self, name: str, numbers: Tensor, stepped: Tensor) -> Tensor:
        """Write a file, whole or not at all, and map it."""
        if self._folder is None:
            return numbers
        path = self._folder / name
        partial = path.with_name(f".{name}.{os.getpid()}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                for values in (numbers, stepped.detach().flatten().float().cpu()):
                    file.write(values.contiguous().numpy().data)
                file.flush()
                os.fsync(file.fileno())
            partial.chmod(0o444)
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise InputError(
                "bank",
                got=f"{self._folder} ({error.strerror})",
                expected=f"a folder with room for {4 * len(numbers) / 2**30:.2g} GiB more",
            ) from error
        return torch.from_file(str(path), shared=False, size=len(numbers), dtype=torch.float32)

    def _forget(self, name: str) -> None:
        if self._folder is not None:
            (self._folder / name).unlink(missing_ok=True)

    def _done(self, step: Step, probing: Probing, probes: int, here: bool = False) -> None:
        """Count probes; a solver has counted those that it answered in this process."""
        if isinstance(step.solver, Tally) and not here:
            step.solver.add(Counter(steps=probes * probing.steps))
        if self._progress and probes:
            self._progress(probes * probing.steps)
