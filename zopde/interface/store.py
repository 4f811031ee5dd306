"""Jacobians on disk, each measured once and found again by what it was measured from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Tally
from zopde.errors import InputError, SolverError
from zopde.files import bytes_of, replacing
from zopde.interface.dense import entry_responses
from zopde.interface.forms import Form, Jacobian
from zopde.interface.vjp import Step, check_probing, failed, probes_per_call
from zopde.oracle.executor import finished
from zopde.oracle.shipping import Shipment, Ticket, load
from zopde.zo.cge import Scheme

_SAME = 1e-4  # relative to the largest entry: a step that is further off is another solver's


@dataclass(frozen=True)
class Probing:
    """How a Jacobian is measured.

    Args:
        mu: Finite-difference step, in the units of the varied input; > 0.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        executor: What makes the calls; None is this process. The numbers do not depend on it,
            where its processes have as many threads as this one. The solver must pickle for it.

    Raises:
        InputError: If `mu` or `states` is not positive, or the scheme is unknown.
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
    takes the place of an equal one. Each solver call's responses are kept until their Jacobian
    is complete, so that after a crash no call is made twice. A file that is cut short, or of a
    solver whose step from the snapshot was another, is measured anew.

    Args:
        folder: Where the files lie; None for memory.
        identity: What decides the solver's steps, and nothing else.
        progress: Called with the solver steps of what was found or measured.

    Attributes:
        solver_steps: Solver steps that were taken. The count of a solver that is a
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
        self.solver_steps = 0

    def fetch(self, step: Step, form: Form, probing: Probing) -> list[Jacobian]:
        """The Jacobian at every state of a step's batch.

        Args:
            step: Where, and of which variable.
            form: How they are kept.
            probing: How they are measured.

        Raises:
            InputError: If the folder cannot be written.
            SolverError: If the solver fails; the calls before are kept.
        """
        files = [self._file(step, form, probing, row) for row in range(len(step.point))]
        packed: dict[int, Tensor] = {}
        for row, file in enumerate(files):
            numbers = self._read(file, form.size, step.stepped[row])
            if numbers is not None:
                packed[row] = numbers
        self._count(step, probing, len(packed) * step.point[0].numel())
        calls = [call for call in _calls(step, probing) if call.row not in packed]
        done: dict[int, dict[int, Tensor]] = {call.row: {} for call in calls}
        for call, responses in self._responses(step, probing, files, calls):
            of_row, file = done[call.row], files[call.row]
            of_row[call.first] = responses
            if sum(map(len, of_row.values())) == step.point[0].numel():
                whole = form.pack(torch.cat([of_row[first] for first in sorted(of_row)]))
                packed[call.row] = self._keep(file, whole, step.stepped[call.row])
                for first in of_row:
                    self._forget(f"{file}.{first}")
                of_row.clear()
        return [form.open(packed[row]) for row in range(len(files))]

    def _responses(
        self, step: Step, probing: Probing, files: Sequence[str], calls: Sequence[_Call]
    ) -> Iterator[tuple[_Call, Float[Tensor, "probes outputs"]]]:
        """The responses of every call: first those that are kept, then the others as they come."""
        missing = []
        for call in calls:
            name, width = f"{files[call.row]}.{call.first}", step.stepped[call.row].numel()
            known = self._read(name, call.count * width, step.stepped[call.row])
            if known is None:
                missing.append(call)
            else:
                self._count(step, probing, call.count)
                yield call, known.view(call.count, width)
        for call, responses in _made(step, missing, probing):
            self.solver_steps += call.count * probing.steps
            self._count(step, probing, call.count, here=probing.executor is None)
            name, stepped = f"{files[call.row]}.{call.first}", step.stepped[call.row]
            yield call, self._keep(name, responses.flatten(), stepped).view_as(responses)

    def _file(self, step: Step, form: Form, probing: Probing, row: int) -> str:
        said = (self._identity, step.variable, probing.mu, probing.scheme, probing.states)
        digest = blake2b(repr(said).encode(), digest_size=16)
        for values in (step.state, step.forcing):
            if values is not None:
                digest.update(f"{tuple(values[row].shape)} {values.dtype}".encode())
                digest.update(bytes_of(values[row]))
        return f"{digest.hexdigest()}.{form.name}"

    def _read(self, name: str, size: int, stepped: Tensor) -> Tensor | None:
        """The numbers of a file, if it is all there and of this solver."""
        if self._folder is None:
            return None
        path, more = self._folder / name, stepped.numel()
        if not path.is_file() or path.stat().st_size != 4 * (size + more):
            return None
        whole = torch.from_file(str(path), shared=False, size=size + more, dtype=torch.float32)
        expected = stepped.detach().flatten().float().cpu()
        off = (whole[size:] - expected).abs().max()
        return whole[:size] if off <= _SAME * expected.abs().max() else None

    def _keep(self, name: str, numbers: Tensor, stepped: Tensor) -> Tensor:
        """Write a file, whole or not at all, and map it."""
        if self._folder is None:
            return numbers
        path = self._folder / name
        try:
            with replacing(path) as other_name, other_name.open("wb") as file:
                for values in (numbers, stepped.detach().flatten().float().cpu()):
                    file.write(values.contiguous().numpy().data)
                other_name.chmod(0o444)
        except OSError as error:
            raise InputError(
                "bank",
                got=f"{self._folder} ({error.strerror})",
                expected=f"a folder with room for {4 * len(numbers) / 2**30:.2g} GiB more",
            ) from error
        return torch.from_file(str(path), shared=False, size=len(numbers), dtype=torch.float32)

    def _forget(self, name: str) -> None:
        if self._folder is not None:
            (self._folder / name).unlink(missing_ok=True)

    def _count(self, step: Step, probing: Probing, probes: int, here: bool = False) -> None:
        """Count probes; a solver has counted those that it stepped in this process."""
        if isinstance(step.solver, Tally) and not here:
            step.solver.add(Counter(steps=probes * probing.steps))
        if self._progress and probes:
            self._progress(probes * probing.steps)


@dataclass(frozen=True)
class _Call:
    """One solver call: the entries `first`, ..., `first + count - 1` of the state in a row."""

    row: int
    first: int
    count: int


def _calls(step: Step, probing: Probing) -> list[_Call]:
    """Every entry of every state; no call takes more states than it may, or two rows."""
    entries, chunk = step.point[0].numel(), probes_per_call(probing.states, probing.scheme)
    return [
        _Call(row, first, min(chunk, entries - first))
        for row in range(len(step.point))
        for first in range(0, entries, chunk)
    ]


def _made(
    step: Step, calls: Sequence[_Call], probing: Probing
) -> Iterator[tuple[_Call, Float[Tensor, "probes outputs"]]]:
    """The responses of every call in float32, as they come."""
    if probing.executor is None:
        for call in calls:
            yield call, _responses(step, call, probing.mu, probing.scheme)
        return
    shipment = Shipment((step.solver,))
    work = partial(_in_worker, shipment.publish(step), probing.mu, probing.scheme)
    for number, data in finished(probing.executor, work, calls):
        responses = torch.frombuffer(bytearray(data), dtype=torch.float32)
        yield calls[number], responses.view(calls[number].count, -1)


def _responses(
    step: Step, call: _Call, mu: float, scheme: Scheme
) -> Float[Tensor, "probes outputs"]:
    """J e_j for the entries of a call, in float32; a Jacobian must be whole."""
    entries = torch.arange(call.first, call.first + call.count, device=step.point.device)
    responses = entry_responses(step, torch.full_like(entries, call.row), entries, mu, scheme)
    lost = failed(responses)
    if lost.any():
        raise SolverError(f"Jacobian: {int(lost.sum())} of {len(lost)} probes failed")
    return responses.flatten(1).float().cpu()


def _in_worker(ticket: Ticket, mu: float, scheme: Scheme, call: _Call) -> bytes:
    """A worker's part; plain bytes, since some executors share a tensor's memory."""
    step, _ = load(ticket, _as_it_is)
    return _responses(step, call, mu, scheme).numpy().tobytes()


def _as_it_is(step: Step) -> Step:
    return step
