"""Stacked probes against the plain loop, before anybody relies on them.

Probes share a pass on the assumption that the first axis of every tensor is the batch, that nothing
couples its rows, and that a weight acts through its layer alone. Code can break each of these. So
some probes are answered both ways, on a copy of the network whose weights were moved at random:
behind a layer of zeros, where many networks start, every answer would agree.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import TypeVar, final

import torch
from torch import Generator, Tensor, nn

from zopde.contracts import counted_apart
from zopde.errors import ObjectiveError, SolverError, first_line
from zopde.oracle.chunks import out_of_memory
from zopde.oracle.coordinates import Coordinates, ParameterSlice
from zopde.oracle.state import set_streams, streams
from zopde.oracle.vmapped import DIRECTIONS

T = TypeVar("T")
_SHARES = (0.1, 0.01, 0.0)  # of a weight's size, by which it is moved; the first that works
_WAYS = (1.0, -0.7)  # of two probes: no two steps alike, they might make up for each other
_ATTEMPTS, _STRIDE = 4, 7919  # of a probe, and how far apart the weights that it tries
# In units of round-off: what a probe should move, what it has to, and how far both ways may differ.
_ENOUGH, _LEAST, _APART = 600.0, 60.0, 12.0


@dataclass(frozen=True)
class Twin:
    """The oracle of a copy of the network."""

    query: Callable[[dict[str, Tensor]], Tensor]  # the loss with some parameters replaced
    # (indices, steps) -> the losses of sorted coordinates that share a pass
    together: Callable[[Tensor, Tensor], Tensor]
    along: Callable[[Tensor, int], Tensor]  # (directions, how many share a pass) -> their losses


@dataclass(frozen=True)
class Found:
    """What a comparison found."""

    wrong: dict[str, str]  # what is to be answered one at a time, and why
    # Parameters whose probes moved no loss, so that nothing is known of them
    unmoved: tuple[str, ...] = ()
    queries: int = 0  # evaluations of the objective
    noise: float = 0.0  # by how much two losses at the same weights differ
    still: bool = False  # no loss differs from another, in any digit
    outside: bool = False  # the objective calls the network itself, whose weights are not moved
    # Numbers of the first and the last gradient that were not compared before this fault was found
    doubtful: tuple[int, int] = (1, 0)

    def lines(self, weights: dict[str, int]) -> Iterator[str]:
        """What to tell the user; `weights` are the probes of a whole gradient, by name."""
        wrong = [name for name in self.wrong if name not in self.unmoved or name == DIRECTIONS]
        if wrong:
            count = sum(weights.get(name, 0) for name in wrong)
            price = f"{count:,} probes of a whole gradient" if count else "they"
            why = self.wrong[wrong[0]]
            yield f"stacked probes fail at {_listed(wrong)} ({why}): {price} go one at a time"
        first, last = self.doubtful
        if first <= last:
            yield f"it was right at gradient {first - 1}; gradients {first} to {last} may be wrong"
        if self.outside:
            yield "the objective calls the network itself, too: there no probe moves its weights"
        if self.noise:
            yield f"two losses at the same weights differ by {self.noise:.1g}: something is random"
        silent = [name for name in self.unmoved if name not in self.wrong]
        if silent:
            yield f"stacked probes not verified, none moved the loss: {_listed(silent)}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


@dataclass(frozen=True)
class _Probe:
    """A moved weight, and by how much the plain loop says that it changes the loss."""

    index: int
    step: float
    change: float
    round_off: float


def compare(
    network: nn.Module, twin_of: Callable[[nn.Module], Twin], names: Sequence[str], width: int
) -> Found:
    """Answer some probes both ways, on copies of the network; `twin_of` gives a copy's oracle.

    The names are those of parameters whose probes share passes, `width` of them each;
    `DIRECTIONS` alone for directions.
    """
    queries, bases, found = 0, set[float](), Found({}, tuple(names))
    with aside():
        for share in _SHARES:
            try:
                copied = _moved_copy(network, share)
                with calls_of(network) as outside:  # after the copy, which copies hooks
                    trial = _Trial(twin_of(copied), copied)
                    found = replace(trial.run(names, width), outside=bool(outside))
            except Exception as error:  # user code may raise anything
                if out_of_memory(error) or isinstance(error, ObjectiveError):
                    raise
                why = f"on a copy, {type(error).__name__}: {first_line(error)}"
                fragile = isinstance(error, SolverError)
                found = Found({}, tuple(names)) if fragile else Found(dict.fromkeys(names, why))
                continue
            queries += trial.queries
            bases.add(trial.base)
            if len(found.unmoved) < len(names):
                break
    return replace(found, queries=queries, still=found.still and len(bases) == 1)


@contextmanager
def calls_of(network: nn.Module) -> Iterator[list[nn.Module]]:
    """Inside this context calls of a network itself are noted, not those of its copies."""
    calls: list[nn.Module] = []
    if isinstance(network, torch.jit.ScriptModule):  # it takes no such hook
        yield calls
        return

    def note(module: nn.Module, _: object) -> None:
        if module is network:
            calls.append(module)

    hook = network.register_forward_pre_hook(note)
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def aside() -> Iterator[None]:
    """Inside this context solvers count apart; torch's streams are put back afterwards."""
    before = streams()
    try:
        with counted_apart():
            yield
    finally:
        set_streams(before)


def _moved_copy(network: nn.Module, share: float) -> nn.Module:
    """A copy of a network with its weights moved by a share of their size."""
    draw = Generator().manual_seed(0)
    # What hooks have computed carries a graph, which does not copy; nor do some sparse tensors.
    tensors = [v for m in network.modules() for v in vars(m).values() if isinstance(v, Tensor)]
    odd = [v for v in [*tensors, *network.buffers()] if not v.is_leaf or v.layout != torch.strided]
    copied = copy.deepcopy(network, {id(v): v.detach().clone() for v in odd})
    for weight in copied.parameters():
        weight.copy_(moved(weight, share, draw))
    return copied


def moved(values: Tensor, share: float, draw: Generator) -> Tensor:
    """Some numbers, moved at random by a share of their size."""
    return values.detach() + share * _size(values) * _noise(values, draw)


def _size(weight: Tensor) -> float:
    """The root mean square of a parameter; of one that is zero, of one that would start well."""
    known = float(weight.abs().double().square().mean().sqrt()) if weight.numel() else 1.0
    return known or 1 / math.sqrt(weight[0].numel() if weight.dim() else 1)


def _noise(weight: Tensor, draw: Generator) -> Tensor:
    kind = torch.complex128 if weight.is_complex() else torch.float64
    return torch.randn(weight.shape, generator=draw, dtype=kind).to(weight)


def resolution(network: nn.Module) -> float:
    """The relative precision of a network's arithmetic: that of its coarsest parameter."""
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point() or p.is_complex()}
    eps = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
    on_gpu = any(parameter.is_cuda for parameter in network.parameters())
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return max(eps, 2.0**-11) if on_gpu and tf32 and torch.float32 in kinds else eps


@final
class _Trial:
    """Probes of a copy of the network, both ways."""

    def __init__(self, twin: Twin, network: nn.Module) -> None:
        self._twin, self._network, self.queries = twin, network, 1
        self._draw, self._eps = Generator().manual_seed(1), resolution(network)
        self.base = float(twin.query({}))
        # Weights changed in their last digit show what round-off does to this loss.
        rounded = [self._loss(lambda: twin.query(self._rounded())) for _ in _WAYS]
        changes = [abs(loss - self.base) for loss in rounded]
        self._still = not any(changes)
        self._round_off = max(*changes, 4 * self._eps * abs(self.base), 1e-300)
        again = abs(self._loss(lambda: twin.query({})) - self.base)
        self._noise = again if again > 100 * self._eps * abs(self.base) else 0.0
        self._round_off = max(self._round_off, self._noise)

    def run(self, names: Sequence[str], width: int) -> Found:
        """See `compare`."""
        if not math.isfinite(self.base + self._round_off):
            return Found({}, tuple(names), self.queries, self._noise)
        if DIRECTIONS in names:
            return self._directions(width)
        slices = Coordinates(self._network).slices
        parts = [part for part in slices if part.name in names and part.stop > part.start]
        probes = {part.name: [*self._probes(part)] for part in parts}
        unmoved = tuple(name for name, own in probes.items() if any(map(_is_still, own)))
        wrong: dict[str, str] = {}
        if self._fault(probes.values(), width):
            single = {name: self._fault([own], width) for name, own in probes.items()}
            wrong = {name: why for name, why in single.items() if why}
            left = {name: own for name, own in probes.items() if name not in wrong}
            if why := self._fault(left.values(), width):
                wrong |= dict.fromkeys(left, f"in passes that they share, {why}")
        still = all(self._is_flat(own) for own in probes.values())
        return Found(wrong, unmoved, self.queries, self._noise, still)

    def _is_flat(self, probes: Iterable[_Probe]) -> bool:
        return self._still and all(probe.step and not probe.change for probe in probes)

    def _probes(self, part: ParameterSlice) -> Iterator[_Probe]:
        """Some weights of a parameter, each moved until the loss moves by more than round-off."""
        weight = attrgetter(part.name)(self._network).detach()
        count, size = weight.numel(), _size(weight)
        for way in _WAYS:
            best, shrink = None, 1.0
            first = int(torch.randint(count, (), generator=self._draw))
            for attempt in range(_ATTEMPTS):
                position = (first + attempt * _STRIDE) % count
                scale = shrink * 10 ** max(0, attempt - 1)
                moved = weight.clone(memory_format=torch.contiguous_format)
                moved.view(-1)[position] += way * size * scale
                change = self._loss(partial(self._twin.query, {part.name: moved})) - self.base
                round_off = self._round_off * max(1.0, scale**0.5)
                if not math.isfinite(change):
                    shrink *= 0.01
                elif best is None or abs(change) > _LEAST * round_off:
                    best = _Probe(part.start + position, way * size * scale, change, round_off)
                if best and abs(best.change) > _ENOUGH * best.round_off:
                    break
            yield best or _Probe(part.start, 0.0, 0.0, self._round_off)

    def _fault(self, groups: Iterable[list[_Probe]], width: int) -> str:
        """What is wrong where these probes share full passes; "" where nothing is."""
        few = sorted((p for own in groups for p in own), key=lambda p: p.index)
        if not few:
            return ""
        probes = _repeated(few, width)
        indices = torch.tensor([p.index for p in probes])
        steps = torch.tensor([p.step for p in probes], dtype=torch.float64)

        def ask() -> Tensor:
            return torch.cat([*map(self._twin.together, indices.split(width), steps.split(width))])

        return self._difference(probes, ask)

    def _directions(self, width: int) -> Found:
        rows = []
        for part in Coordinates(self._network).slices:
            size = _SHARES[0] * _size(attrgetter(part.name)(self._network))
            shape = len(_WAYS), part.stop - part.start
            rows.append(size * torch.randn(shape, generator=self._draw, dtype=torch.float64))
        along = torch.cat(rows, dim=1)
        probes = []
        for row in along.split(1):
            loss = self._loss(partial(self._twin.along, row, 1))
            probes.append(_Probe(0, 1.0, loss - self.base, self._round_off))
        many = _repeated(range(len(along)), width)
        shared = [probes[i] for i in many]
        why = self._difference(shared, lambda: self._twin.along(along[many], width))
        unmoved = (DIRECTIONS,) if any(map(_is_still, probes)) else ()
        wrong, still = {DIRECTIONS: why} if why else {}, self._is_flat(probes)
        return Found(wrong, unmoved, self.queries, self._noise, still)

    def _difference(self, probes: Sequence[_Probe], ask: Callable[[], Tensor]) -> str:
        """How stacked answers differ from the plain loop's; "" where round-off explains it."""
        self.queries += len(probes)
        try:
            found = (ask().double().cpu() - self.base).tolist()
        except Exception as error:  # user code may raise anything
            # A solver that fails says nothing about passes.
            if out_of_memory(error) or isinstance(error, ObjectiveError | SolverError):
                raise
            return f"{type(error).__name__}: {first_line(error)}"
        worst = 0.0
        for change, probe in zip(found, probes, strict=True):
            size, off = abs(probe.change), abs(change - probe.change)
            allowed = _APART * probe.round_off + math.sqrt(self._eps) * size
            if not off <= allowed and math.isfinite(size):
                worst = max(worst, off / max(size, probe.round_off))
        return f"a change of the loss is off by {100 * worst:.2g} %" if worst else ""

    def _loss(self, ask: Callable[[], Tensor]) -> float:
        """By the plain way; NaN where the solver fails."""
        self.queries += 1
        try:
            return float(ask())
        except SolverError:
            return math.nan

    def _rounded(self) -> dict[str, Tensor]:
        """All parameters, changed in their last digit."""
        named = self._network.named_parameters()
        return {n: p.detach() * (1 + self._eps * _noise(p, self._draw)) for n, p in named}


def _repeated(few: Sequence[T], width: int) -> list[T]:
    """Some things, each of them once at least and in their order, that fill groups of `width`."""
    count = width * math.ceil(len(few) / width)
    return [few[i * len(few) // count] for i in range(count)]


def _is_still(probe: _Probe) -> bool:
    return not abs(probe.change) >= _LEAST * probe.round_off
