"""Stacked probes against the plain loop, before anybody relies on them.

Probes share a pass on the assumption that the first axis of every tensor is the batch, that nothing
couples its rows, and that a weight acts through its layer alone. Code can break each of these. So
some probes are answered both ways, on a copy of the network whose weights were moved at random:
behind a layer of zeros, where many networks start, every answer would agree.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor, nn

from zopde.contracts import CHECKING
from zopde.errors import first_line
from zopde.oracle.chunks import out_of_memory
from zopde.oracle.coordinates import Coordinates, ParameterSlice
from zopde.oracle.vmapped import DIRECTIONS
from zopde.seeding import set_streams, streams

log = logging.getLogger(__name__)

_PROBES, _ATTEMPTS = 2, 6  # of a parameter, and of a probe
_SHARES = (0.1, 0.01, 0.0)  # by which weights are moved, of their size; the first that works
# In units of round-off: what a probe should move, what it has to, and how far both ways may differ.
_ENOUGH, _LEAST, _APART = 3000.0, 300.0, 30.0


@dataclass(frozen=True)
class Twin:
    """The oracle of a copy of the network.

    Args:
        query: The loss with some parameters replaced.
        together: (indices, steps) -> the losses of sorted coordinates that share a pass.
        along: (directions, how many share a pass) -> their losses.
    """

    query: Callable[[dict[str, Tensor]], Tensor]
    together: Callable[[Tensor, Tensor], Tensor]
    along: Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Found:
    """What a comparison found.

    Args:
        wrong: What is to be answered one at a time, and why.
        unmoved: Parameters whose probes moved no loss, so that nothing is known of them.
        queries: Evaluations of the objective.
    """

    wrong: dict[str, str]
    unmoved: tuple[str, ...]
    queries: int


@dataclass(frozen=True)
class _Probe:
    """One moved weight, and by how much the plain loop says that it changes the loss."""

    index: int
    step: float
    change: float


def compare(
    network: nn.Module,
    twin_of: Callable[[nn.Module], Twin],
    names: Sequence[str],
    chunk: int | None = None,
) -> Found:
    """Compare both ways.

    Args:
        network: It is only read.
        twin_of: A copy -> its oracle.
        names: Parameters whose probes share passes; `DIRECTIONS` alone for directions.
        chunk: Most probes of a pass.
    """
    queries, why = 0, ""
    with _aside():
        for share in _SHARES:
            try:
                copied = _moved_copy(network, share)
            except Exception as error:  # a user's module may not copy
                why = f"no copy can be made: {first_line(error)}"
                return Found(dict.fromkeys(names, why), (), queries)
            trial = _Trial(twin_of(copied), copied)
            found = trial.run(names, chunk) if trial.works() else Found({}, (), 0)
            queries += trial.queries
            if len(found.unmoved) < len(names) and trial.works():
                break
    return Found(found.wrong, found.unmoved if trial.works() else tuple(names), queries)


def tell(found: Found, weights: dict[str, int]) -> None:
    """Say what goes one at a time, at what price, and what is not known.

    Args:
        found: By the comparison.
        weights: Name -> probes of a whole gradient.
    """
    wrong = {name: why for name, why in found.wrong.items() if name not in found.unmoved}
    if wrong:
        price = f"{sum(weights.get(name, 0) for name in wrong):,} probes of a whole gradient"
        if DIRECTIONS in wrong:
            price = "all directions"
        text = "stacked probes are not the plain loop's at %s (%s): %s go one at a time"
        log.warning(text, _listed(list(wrong)), next(iter(wrong.values())), price)
    silent = [name for name in found.unmoved if name not in found.wrong]
    if silent:
        log.warning("stacked probes not verified, none moved the loss: %s", _listed(silent))
    for name in {*found.unmoved} & {*found.wrong}:
        log.debug("%s moves no loss: probed one at a time", name)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


@contextmanager
def _aside() -> Iterator[None]:
    """Inside this context solvers count apart; the global streams are put back afterwards."""
    token, before = CHECKING.set(True), streams()
    try:
        yield
    finally:
        set_streams(before)
        CHECKING.reset(token)


def _moved_copy(network: nn.Module, share: float) -> nn.Module:
    """A copy of a network with its weights moved by a share of their size."""
    draw = Generator().manual_seed(0)
    # What hooks have computed carries a graph, which does not copy.
    tensors = [v for m in network.modules() for v in vars(m).values() if isinstance(v, Tensor)]
    known = {id(v): v.detach().clone() for v in tensors if not v.is_leaf}
    copied = copy.deepcopy(network, known)
    for weight in copied.parameters():
        weight.add_(share * _size(weight) * _noise(weight, draw))
    return copied


def _size(weight: Tensor) -> float:
    """The root mean square of a parameter; of one that is zero, of one that would start well."""
    known = float(weight.abs().double().square().mean().sqrt()) if weight.numel() else 0.0
    return known or 1 / math.sqrt(max(1, weight[0].numel() if weight.dim() else 1))


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
        self._twin, self._network, self.queries = twin, network, 0
        self._draw, self._eps = Generator().manual_seed(1), resolution(network)
        self._base = self._loss(lambda: twin.query({}))
        # Weights changed in their last digit show what round-off does to this loss.
        rounded = [self._loss(lambda: twin.query(self._rounded())) for _ in range(2)]
        changes = [abs(loss - self._base) for loss in rounded]
        self._floor = max(*changes, 4 * self._eps * abs(self._base), 1e-300)

    def works(self) -> bool:
        """Whether the objective has a loss here."""
        return math.isfinite(self._base) and math.isfinite(self._floor)

    def run(self, names: Sequence[str], chunk: int | None) -> Found:
        """Compare; see `compare`."""
        if DIRECTIONS in names:
            return self._directions()
        parts = [p for p in Coordinates(self._network).slices if p.name in names]
        probes = {part.name: [*self._probes(part)] for part in parts}
        unmoved = [n for n, own in probes.items() if any(self._is_still(p.change) for p in own)]
        wrong: dict[str, str] = {}
        if self._fault(probes.values(), chunk):
            single = {name: self._fault([own], chunk) for name, own in probes.items()}
            wrong = {name: why for name, why in single.items() if why}
            left = {name: own for name, own in probes.items() if name not in wrong}
            if why := self._fault(left.values(), chunk):
                wrong |= dict.fromkeys(left, f"in passes that they share, {why}")
        return Found(wrong, tuple(unmoved), self.queries)

    def _probes(self, part: ParameterSlice) -> Iterator[_Probe]:
        """Some weights of a parameter, each moved until the loss moves by more than round-off."""
        weight = self._network.get_parameter(part.name)
        for _ in range(_PROBES):
            best, shrink = _Probe(part.start, 0.0, 0.0), 1.0
            for attempt in range(_ATTEMPTS):
                position = int(torch.randint(weight.numel(), (), generator=self._draw))
                step = _size(weight) * shrink * 10 ** (attempt // 2)
                moved = weight.detach().clone(memory_format=torch.contiguous_format)
                moved.view(-1)[position] += step
                change = self._loss(lambda m=moved: self._twin.query({part.name: m})) - self._base
                if not math.isfinite(change):
                    shrink *= 0.01
                elif abs(change) >= abs(best.change):
                    best = _Probe(part.start + position, step, change)
                if abs(best.change) > _ENOUGH * self._floor:
                    break
            yield best

    def _fault(self, groups: Iterable[list[_Probe]], chunk: int | None) -> str:
        """What is wrong where these probes share passes; "" where nothing is."""
        probes = sorted((p for own in groups for p in own), key=lambda p: p.index)
        if not probes:
            return ""
        passes = math.ceil(len(probes) / (chunk or len(probes)))
        indices = torch.tensor([p.index for p in probes]).tensor_split(passes)
        steps = torch.tensor([p.step for p in probes], dtype=torch.float64).tensor_split(passes)

        def ask() -> Tensor:
            return torch.cat([*map(self._twin.together, indices, steps)])

        return self._difference([p.change for p in probes], ask)

    def _directions(self) -> Found:
        rows, draw = [], self._draw
        for part in Coordinates(self._network).slices:
            size = _SHARES[0] * _size(self._network.get_parameter(part.name))
            noise = torch.randn(
                _PROBES, part.stop - part.start, generator=draw, dtype=torch.float64
            )
            rows.append(size * noise)
        along = torch.cat(rows, dim=1)
        changes = [
            self._loss(lambda row=row: self._twin.along(row, 1)[0]) - self._base
            for row in along.split(1)
        ]
        why = self._difference(changes, lambda: self._twin.along(along, _PROBES))
        unmoved = (DIRECTIONS,) if any(map(self._is_still, changes)) else ()
        return Found({DIRECTIONS: why} if why else {}, unmoved, self.queries)

    def _is_still(self, change: float) -> bool:
        return not abs(change) >= _LEAST * self._floor

    def _difference(self, changes: list[float], ask: Callable[[], Tensor]) -> str:
        """How stacked answers differ from the plain loop's; "" where round-off explains it."""
        self.queries += len(changes)
        try:
            found = (ask().double().cpu() - self._base).tolist()
        except Exception as error:  # user code may raise anything
            if out_of_memory(error):
                raise
            return f"{type(error).__name__}: {first_line(error)}"
        worst = 0.0
        for one, other in zip(found, changes, strict=True):
            allowed = _APART * self._floor + math.sqrt(self._eps) * abs(other)
            if not abs(one - other) <= allowed and math.isfinite(other):
                worst = max(worst, abs(one - other) / max(abs(other), self._floor))
        return f"a change of the loss is off by {100 * worst:.2g} %" if worst else ""

    def _loss(self, ask: Callable[[], Tensor]) -> float:
        """By the plain way; NaN where the objective fails."""
        self.queries += 1
        try:
            return float(ask())
        except Exception as error:  # the objective is the user's
            if out_of_memory(error):
                raise
            log.debug("no loss in a comparison: %s", first_line(error))
            return math.nan

    def _rounded(self) -> dict[str, Tensor]:
        """All parameters, changed in their last digit."""
        named = self._network.named_parameters()
        return {n: p.detach() * (1 + self._eps * _noise(p, self._draw)) for n, p in named}
