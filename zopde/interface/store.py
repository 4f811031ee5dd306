"""Jacobians on disk, each measured once and found again by what it was measured from."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Tally
from zopde.errors import InputError, SolverError
from zopde.files import bytes_of, replacing
from zopde.interface.directions import single_entries, units_of
from zopde.interface.vjp import Probing, Step, as_they_come, failed, per_row

log = logging.getLogger(__name__)

_DIGEST = 32  # bytes of the checksum behind the numbers
_SAME = 1e-4  # relative to the largest entry: a step that is further off is another solver's


@final
class JacobianStore:
    """Keeps Jacobians in float32 in a folder; without one it measures each and holds it in memory.

    A file's name is a digest of the identity, the snapshot and the probing, so that runs with
    the same solver share it. It is written once, whole, and then only read (memory-mapped):
    any number of runs may use a folder at a time. Where two measure the same, the later file
    takes the place of an equal one. Each solver call's responses are kept until their Jacobian
    is complete, so that after a crash no call is made twice. A file that is damaged, or of a solver
    whose step from the snapshot was another, is measured anew.

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

    def fetch(self, step: Step, probing: Probing) -> list[Float[Tensor, "inputs outputs"]]:
        """The Jacobian at every state of a step's batch, as J^T[j, i] = d S_i / d x_j.

        x_j are the entries that can be moved, `step.entries`.

        Args:
            step: Where, and of which variable.
            probing: How they are measured.

        Raises:
            InputError: If the folder cannot be written.
            SolverError: If the solver fails; the calls before are kept.
        """
        entries, files = len(step.entries), list[str]()
        whole, calls = dict[int, Tensor](), list[_Call]()
        for row in range(len(step.point)):
            files.append(self._file(step.at(row), probing))
            stepped = step.stepped[row]
            numbers = self._read(files[row], entries * stepped.numel(), stepped)
            if numbers is not None:
                whole[row] = numbers
                continue
            per_call = probing.per_call(step.point[0].numel())
            for first in range(0, entries, per_call):
                probes = min(per_call, entries - first)
                calls.append(_Call(row, first, probes, f"{files[row]}.{first}"))
        self._count(step, probing, len(whole) * entries)
        measured: dict[int, dict[int, Tensor]] = {call.row: {} for call in calls}
        for call, responses in self._responses(step, probing, calls):
            row, parts = call.row, measured[call.row]
            parts[call.first] = responses
            if sum(map(len, parts.values())) == entries:
                numbers = torch.cat([parts[first] for first in sorted(parts)]).flatten()
                whole[row] = self._keep(files[row], numbers, step.stepped[row])
                if self._folder is not None:
                    for first in parts:
                        (self._folder / f"{files[row]}.{first}").unlink(missing_ok=True)
                parts.clear()
        return [whole[row].view(entries, -1) for row in range(len(files))]

    def _responses(
        self, step: Step, probing: Probing, calls: Sequence[_Call]
    ) -> Iterator[tuple[_Call, Float[Tensor, "probes outputs"]]]:
        """The responses of every call: first those that are kept, then the others as they come."""
        missing = []
        for call in calls:
            stepped = step.stepped[call.row]
            known = self._read(call.file, call.probes * stepped.numel(), stepped)
            if known is None:
                missing.append(call)
            else:
                self._count(step, probing, call.probes)
                yield call, known.view(call.probes, -1)
        for call, responses in _measured(step, missing, probing):
            self.solver_steps += call.probes * probing.steps
            self._count(step, probing, call.probes, here=True)
            kept = self._keep(call.file, responses.flatten(), step.stepped[call.row])
            yield call, kept.view_as(responses)

    def _file(self, single: Step, probing: Probing) -> str:
        settings = (self._identity, single.variable, probing.mu, probing.scheme, probing.states)
        digest = blake2b(repr(settings).encode(), digest_size=16)
        # The units of mu are part of it: files from before they were taken by channel differ.
        for values in (single.state, single.forcing, probing.units(single)):
            if values is not None:
                digest.update(f"{tuple(values[0].shape)} {values.dtype}".encode())
                digest.update(bytes_of(values[0]))
        return f"{digest.hexdigest()}.dense"

    def _read(self, name: str, size: int, stepped: Tensor) -> Tensor | None:
        """The numbers of a file, if it is all there and of this solver."""
        if self._folder is None:
            return None
        path, count = self._folder / name, size + stepped.numel()
        # An older version wrote no checksum.
        if not path.is_file() or path.stat().st_size not in (4 * count, 4 * count + _DIGEST):
            return None
        whole = torch.from_file(str(path), shared=False, size=count, dtype=torch.float32)
        if path.stat().st_size > 4 * count:
            with path.open("rb") as file:
                file.seek(4 * count)
                if file.read() != _checksum(name, whole):
                    log.warning("bank: %s is not as it was written; measured anew", path)
                    return None
        expected = stepped.detach().flatten().float().cpu()
        off = (whole[size:] - expected).abs().max()
        return whole[:size] if off <= _SAME * expected.abs().max() else None

    def _keep(self, name: str, numbers: Tensor, stepped: Tensor) -> Tensor:
        """Write a file, whole or not at all, and map it."""
        if self._folder is None:
            return numbers
        path = self._folder / name
        try:
            parts = (numbers.contiguous(), stepped.detach().flatten().float().cpu())
            with replacing(path) as partial_path, partial_path.open("wb") as file:
                for values in parts:
                    file.write(values.numpy().data)
                file.write(_checksum(name, *parts))
                partial_path.chmod(0o444)
        except OSError as error:
            got = f"{self._folder} ({error.strerror})"
            expected = f"a folder with room for {4 * len(numbers) / 2**30:.2g} GiB more"
            raise InputError("bank", got=got, expected=expected) from error
        return torch.from_file(str(path), shared=False, size=len(numbers), dtype=torch.float32)

    def _count(self, step: Step, probing: Probing, probes: int, here: bool = False) -> None:
        """Count probes; a solver has counted those that it stepped in this process."""
        if isinstance(step.solver, Tally) and not here:
            step.solver.add(Counter(steps=probes * probing.steps))
        if self._progress and probes:
            self._progress(probes * probing.steps)


def _checksum(name: str, *parts: Tensor) -> bytes:
    """Of a file's numbers and of its name, so that none is taken for another."""
    digest = sha256(name.encode())
    for values in parts:
        digest.update(values.numpy().data)
    return digest.digest()


class _Call(NamedTuple):
    """One solver call: some entries of one state, in the order in which they lie."""

    row: int
    first: int
    probes: int
    file: str  # in which its responses are kept until their Jacobian is complete


def _measured(
    step: Step, calls: Sequence[_Call], probing: Probing
) -> Iterator[tuple[_Call, Float[Tensor, "probes outputs"]]]:
    """J e_j for the entries of every call, in float32, as they come; a Jacobian must be whole."""
    units, movable = probing.units(step), step.entries
    entries = [movable[c.first : c.first + c.probes] for c in calls]
    rows = [torch.full_like(e, c.row) for c, e in zip(calls, entries, strict=True)]
    moved = (single_entries(step, r, e, units) for r, e in zip(rows, entries, strict=True))
    for n, found in as_they_come(step, zip(rows, moved, strict=True), probing):
        lost = failed(found)
        if lost.any():
            raise SolverError(f"Jacobian: {int(lost.sum())} of {len(lost)} probes failed")
        sizes = per_row(units_of(step, rows[n], entries[n], units), found)
        yield calls[n], (found / sizes).flatten(1).float().cpu()
