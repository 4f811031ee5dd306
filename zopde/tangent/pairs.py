"""Pairs of a perturbation and the solver's response to it, each measured once and kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.contracts import Domain, Forcing, Solver, State, Tally
from zopde.errors import SolverError
from zopde.files import key_of, load_tensors, reading, save_tensors
from zopde.interface.asking import by_workers
from zopde.interface.vjp import Probing, Step, Variable, differences, varied_shape

_NOISE = 0.02  # standard deviations by which a stored state is moved, smoothly
_NOISE_WIDTH = 7  # cells
_AHEAD = 16  # solver calls that are prepared at a time
_MEMORY = 2**29  # bytes of pairs that are kept in memory; others stay in their files
_WIDEST = 4  # an axis is so many times as long as the widest smoothing


Tensors = dict[str, Tensor | None]


class Base(NamedTuple):
    """Holds what was measured at one state, without an axis for states."""

    state: State  # (channel, *space)
    forcing: Forcing | None  # (forcing_channel, *space)
    moved: Float[Tensor, "directions varied *space"]  # d, in units of `units`
    response: Float[Tensor, "directions channel *space"]  # J d, in units of `size`
    units: Float[Tensor, "varied ..."]  # of d, by channel
    size: Float[Tensor, "directions channel ..."]  # of J d, by channel


@dataclass(frozen=True)
class Pairs:
    """Holds perturbations d of a step's input and the responses J d, at some states.

    Perturbations and responses are kept in half precision, in units in which they are of size 1.
    That rounds an entry by 5e-4 of its size at most. Nothing is copied where pairs are joined or
    split: they may be most of a machine's memory, or more than it has, and stay in files then.
    """

    variable: Variable  # of which input
    bases: tuple[Callable[[], Base], ...]  # what was measured, state by state

    @classmethod
    def of(
        cls, variable: Variable, tensors: Mapping[str, Tensor | None], path: Path | None = None
    ) -> Pairs:
        """Take what `tensors` gave; with a path, it is read from that file when it is needed."""
        columns = [tensors[name] for name in Base._fields]
        many = len(tensors["state"]) if tensors["state"] is not None else 0
        if path is not None:
            return cls(variable, tuple(partial(_read, path, row) for row in range(many)))
        split = [[None] * many if column is None else list(column) for column in columns]
        bases = (Base(*row) for row in zip(*split, strict=True))
        return cls(variable, tuple(partial(_itself, base) for base in bases))

    def tensors(self) -> dict[str, Tensor | None]:
        """All fields of the bases by name, (bases, ...) each."""
        bases = [base() for base in self.bases]
        columns = zip(Base._fields, zip(*bases, strict=True), strict=True)
        return {name: None if c[0] is None else torch.stack(c) for name, c in columns}

    def __len__(self) -> int:
        return len(self.bases)

    def at(
        self, rows: Int[Tensor, " rows"], directions: Tensor | slice = slice(None)
    ) -> tuple[State, Forcing | None, Tensor, Tensor]:
        """State, forcing, perturbations and responses of some bases, in the solver's units."""
        bases = [self.bases[row]() for row in rows.tolist()]
        moved = [base.moved[directions].to(base.state) * base.units for base in bases]
        response = [
            base.response[directions].to(base.state) * base.size[directions] for base in bases
        ]
        driven = [base.forcing for base in bases if base.forcing is not None]
        state = torch.stack([base.state for base in bases])
        forcing = torch.stack(driven) if driven else None
        return state, forcing, torch.stack(moved), torch.stack(response)

    def split(self, every: int) -> tuple[Pairs, Pairs]:
        """Those to learn from, and one base of every so many, to be held out."""
        held = self.bases[every - 1 :: every]
        kept = tuple(base for n, base in enumerate(self.bases) if n % every != every - 1)
        return Pairs(self.variable, kept), Pairs(self.variable, held)


def _itself(base: Base) -> Base:
    return base


def _read(path: Path, row: int) -> Base:
    """One base of a file; what else is in the file is not read."""
    with reading("pairs", path, "the file that was measured", "put it back"):
        tensors = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        columns = [tensors[name] for name in Base._fields]
        here: list[Any] = [None if column is None else column[row].clone() for column in columns]
        return Base(*here)


def joined(parts: Sequence[Pairs]) -> Pairs:
    """Put pairs of one variable in a row; `parts` has at least one."""
    return Pairs(parts[0].variable, tuple(base for part in parts for base in part.bases))


def smoothed_noise(
    count: int,
    shape: Sequence[int],
    periodic: Sequence[bool],
    generator: Generator,
    widths: Sequence[int] = (),
) -> Float[Tensor, "count channel *space"]:
    """Draw white noise, and noise smoothed over more and more cells, in turn; each of rms 1.

    Args:
        count: How many fields.
        shape: (channel, *space).
        periodic: Of every axis of space.
        generator: Source of the noise.
        widths: Cells over which it is smoothed, in turn, 1 for white noise; empty takes 1, 3, 7,
            15, ... up to a quarter of the longest axis.
    """
    longest = max(shape[1:])
    doubling = [2**k - 1 for k in range(1, longest.bit_length()) if 2**k <= longest // _WIDEST]
    chosen = list(widths) or doubling or [1]
    noise = torch.randn(count, *shape, generator=generator)
    for n, width in enumerate(chosen):
        rows = slice(n, None, len(chosen))
        if width > 1 and len(noise[rows]):
            noise[rows] = _smooth(noise[rows], width, periodic)
    size = noise.flatten(1).square().mean(dim=1).sqrt()
    return noise / size.view(-1, *[1] * len(shape))


def _smooth(noise: Tensor, width: int, periodic: Sequence[bool]) -> Tensor:
    """The mean over a box, twice, along every axis that is long enough."""
    for axis, around in enumerate(periodic, start=2):
        if noise.shape[axis] <= width:
            continue
        lines = noise.movedim(axis, -1)
        flat = lines.reshape(-1, 1, lines.shape[-1])
        for _ in range(2):
            padded = F.pad(flat, (width // 2, width // 2), "circular" if around else "constant")
            flat = F.avg_pool1d(padded, width, stride=1)
        noise = flat.view(lines.shape).movedim(-1, axis)
    return noise


@final
class PairStore:
    """Measures pairs in solver calls, and keeps the result of each call in a folder.

    A file's name is a digest of the solver's identity, the states, the perturbations and how they
    are measured, so that runs with the same solver share it, and a run that was cut off goes on
    where it stopped. Without a folder nothing is kept.

    Args:
        folder: Where the files lie; None for memory.
        identity: What decides the solver's results, and nothing else.
        progress: Called with the solver steps of what was found or measured.
    """

    def __init__(
        self,
        folder: Path | None = None,
        identity: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._folder, self._identity = folder, identity
        self._progress = progress or (lambda _: None)
        self._bytes = 0  # of pairs in memory

    def measure(
        self,
        solver: Solver,
        state: State,
        forcing: Forcing | None,
        variable: Variable,
        directions: int,
        probing: Probing,
        scale: Float[Tensor, " channel"],
        generator: Generator,
    ) -> Pairs:
        """Measure the responses to so many perturbations at each of some states.

        The states are moved by smooth noise of 0.02 standard deviations first, for training
        visits states near the stored ones. Queries: 1 + `directions` solver steps a state (1 + 2 *
        `directions` with the central scheme). A state at which a step failed is left out.

        Args:
            solver: The solver. A `Tally` counts what is found as what is measured.
            state: (bases, channel, *space), the states.
            forcing: (bases, forcing_channel, *space), or None.
            variable: The perturbed input.
            directions: Perturbations of each state.
            probing: How a response is measured.
            scale: (channel,), standard deviations of the state.
            generator: Source of what is random.

        Raises:
            SolverError: If a step failed at every state.
        """
        per_call = probing.per_call(prod(varied_shape(solver.grid, variable)))
        what = state, forcing, variable, directions, scale, generator
        calls = _calls(solver.grid, *what, max(1, per_call // directions))
        found = list[Pairs]()
        while some := list(islice(calls, _AHEAD)):  # all together may not fit into memory
            by_number = self._found(solver, some, probing)
            found += [by_number[number] for number in sorted(by_number)]
        good = [pairs for pairs in found if len(pairs)]
        if not good:
            raise SolverError(f"{variable}: a solver step failed at each of {len(state)} states")
        return joined(good)

    def _kept(self, variable: Variable, tensors: Tensors, path: Path | None) -> Pairs:
        """Pairs in memory, or in their file where those in memory are many already."""
        size = sum(values.nbytes for values in tensors.values() if values is not None)
        if path is not None and self._bytes + size > _MEMORY:
            return Pairs.of(variable, tensors, path)
        self._bytes += size
        return Pairs.of(variable, tensors)

    def _found(self, solver: Solver, calls: Sequence[_Call], probing: Probing) -> dict[int, Pairs]:
        """Each call's pairs, from its file or from the solver."""
        paths = [self._path(call, probing) for call in calls]
        steps = [len(call.state) + len(call.moved) * probing.steps for call in calls]
        found = dict[int, Pairs]()
        for number, path in enumerate(paths):
            if path is not None and path.is_file():
                remedy = "move it away: the pairs are measured again"
                with reading("pairs", path, "what a run of zopde wrote", remedy):
                    tensors = load_tensors(path)
                    found[number] = self._kept(calls[number].variable, tensors, path)
                if isinstance(solver, Tally):
                    solver.add(Counter(steps=steps[number]))
                self._progress(steps[number])
        missing = [number for number in range(len(calls)) if number not in found]
        for place, tensors in _measured(solver, [calls[n] for n in missing], probing):
            number = missing[place]
            path = paths[number]
            if path is not None:
                save_tensors(path, tensors)
            found[number] = self._kept(calls[number].variable, tensors, path)
            self._progress(steps[number])
        return found

    def _path(self, call: _Call, probing: Probing) -> Path | None:
        if self._folder is None:
            return None
        settings = f"{self._identity} {call.variable} {probing.mu} {probing.scheme}"
        scale = None if probing.scale is None else torch.as_tensor(probing.scale)
        name = key_of(settings, call.state, call.forcing, call.moved, scale)
        return self._folder / f"{name.hex()}.pairs"


class _Call(NamedTuple):
    """States that are stepped in one solver call, and the perturbations of each."""

    state: State
    forcing: Forcing | None
    variable: Variable
    moved: Tensor  # (states * directions, varied_channel, *space)
    directions: int


def _calls(
    grid: Domain,
    state: State,
    forcing: Forcing | None,
    variable: Variable,
    directions: int,
    scale: Float[Tensor, " channel"],
    generator: Generator,
    states: int,
) -> Iterator[_Call]:
    """The solver calls, of so many states each, one after the other."""
    units = scale.view(-1, *[1] * (state.dim() - 2)).to(state)
    for rows in torch.arange(len(state), device=state.device).split(states):
        near = smoothed_noise(len(rows), state.shape[1:], grid.periodic, generator, [_NOISE_WIDTH])
        near = _NOISE * near.to(state) * units
        driven, shape = None if forcing is None else forcing[rows], varied_shape(grid, variable)
        moved = smoothed_noise(len(rows) * directions, shape, grid.periodic, generator)
        base, moved = (grid.filled(values) for values in (state[rows] + near, moved.to(state)))
        yield _Call(base, driven, variable, moved, directions)


def _measured(
    solver: Solver, calls: Sequence[_Call], probing: Probing
) -> Iterator[tuple[int, Tensors]]:
    """What `Pairs.of` takes, for every call, by this process or by workers, as they come."""
    if probing.executor is None:
        yield from ((n, _pairs(solver, call, probing)) for n, call in enumerate(calls))
    elif calls:
        alone = replace(probing, executor=None)  # an executor does not pickle
        tasks = [(call, alone) for call in calls]
        yield from by_workers(probing.executor, solver, solver, _pairs, tasks)


def _pairs(solver: Solver, call: _Call, probing: Probing) -> Tensors:
    """Step the states, and then from every perturbation; only what is finite counts."""
    stepped = solver.step(call.state, call.forcing)
    step = Step(solver, call.state, call.forcing, stepped, call.variable)
    units, moved = probing.units(step), call.moved
    rows = torch.arange(len(call.state), device=moved.device).repeat_interleave(call.directions)
    response = differences(step, rows, moved * units[rows], probing.mu, probing.scheme)
    response = response.unflatten(0, (-1, call.directions))
    whole = (response.flatten(1).isfinite().all(dim=1)).nonzero().flatten()
    response, space = response[whole], tuple(range(3, response.dim()))
    size = response.abs().amax(dim=space, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    return {
        "state": call.state[whole],
        "forcing": None if call.forcing is None else call.forcing[whole],
        "moved": moved.unflatten(0, (-1, call.directions))[whole].half(),
        "response": (response / size).half(),
        "units": units[whole],
        "size": size,
    }
