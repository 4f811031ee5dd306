"""The oracle of a network's weights: it puts many probes into one pass of the network.

A moved weight is a rank-one change of its layer's output (`zopde.oracle.coordinates`). So a batch
whose first axis holds many probes passes every layer once, with the common weights, and each layer
then adds what its own probes change. No weight is copied and no convolution is grouped by probe.
Where all probes have the same input, even that is done only behind the moved layer
(`zopde.oracle.reuse`).
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zopde.contracts import Checks, Network, Objective
from zopde.errors import ObjectiveError, SolverError, first_line
from zopde.oracle.chunks import Chunks, Pass, out_of_memory
from zopde.oracle.coordinates import Coordinates, ProbeBlock, nudged
from zopde.oracle.inspection import Inspection
from zopde.oracle.stack import Given, Stack, StackedPass, unused
from zopde.oracle.state import Draws, Replaced, Verified, streams, structure_of, unchanged
from zopde.oracle.verify import Found, Twin, aside, compare, resolution
from zopde.oracle.vmapped import DIRECTIONS, StackedWeights
from zopde.validate import checked

log = logging.getLogger(__name__)

_DIRECTIONS = 16  # each is a copy of all weights
StandIn = Callable[[Objective], Objective]
"""An objective -> another one that calls the network likewise."""


class WeightOracle:
    """Answers l(theta + mu e_i), theta being the weights of a network.

    Probes of convolutions and linear layers are answered `chunk` at a time in one stacked
    batch; any other parameter is moved in a copy, one at a time, with the same numbers. The
    network is only read: its weights and buffers are the same objects with the same values
    afterwards, and no autograd graph is built.

    Before the first gradient, whenever the network's structure, mode or input shapes change or more
    probes share a pass, and again at gradients 4, 8, 16, 32 and every 64th, batches are answered
    among others, weights are moved in their layers alone (`zopde.oracle.inspection`), and some
    probes are answered both ways, on a copy (`zopde.oracle.verify`). What disagrees
    beyond round-off is probed one at a time from then on, and a warning names it.

    Args:
        network: Any module; its trainable parameters are theta, see `Coordinates`.
        objective: (network, num_probes) -> losses (num_probes,); see
            `zopde.contracts.Objective`.
        chunk: Probes per pass; None finds out, see `Chunks`. Memory grows with it; the answers
            depend on it only through round-off.
        memory: Most bytes of tensors that a pass may hold; None is half of what is free.
        stacked: False answers one probe at a time throughout, whatever the layer.
        reuse: False lets every stacked pass go through the whole network, also where the probes
            have their input in common.
        verify: False compares nothing. A function gives what to compare by instead of an objective
            whose queries are dear.

    Raises:
        InputError: If `chunk` or `memory` is not positive; from a gradient, if the losses do not
            come from the network that the objective is given.
    """

    @checked
    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        chunk: int | None = None,
        memory: int | None = None,
        stacked: bool = True,
        reuse: bool = True,
        verify: bool | StandIn = True,
    ) -> None:
        self._network, self._objective = network, objective
        self._chunks, self.draws = Chunks(chunk, memory), Draws()
        self._ways, self._verify = (stacked, reuse), verify
        # Calls of the network -> queries that verified their stacked probes.
        self.checked, self._warned = Counter[str](), list[str]()
        self._number = [0]  # of the present gradient; shared by all objectives
        self._renewed = 0  # at which of them the network's code was traced
        self._set_up()

    def is_of(self, network: nn.Module) -> bool:
        """Whether it asks this network."""
        return self._network is network

    def _set_up(self) -> None:
        """Number the weights, and see which can be stacked, as the network is now."""
        network, (stacked, reuse) = self._network, self._ways
        self._coordinates = Coordinates(network)
        self._fixed = self._coordinates.fixed(network)
        self._structure, self._eps = structure_of(network), resolution(network)
        self.seen: set[str] = set()
        self._stack = Stack(network, stacked, reuse, self.seen)
        self._replaced = Replaced(network)
        self._directions = StackedWeights(network, self._coordinates, self._replaced, self.seen)
        self._verified = {way: Verified(begun=self._number[0]) for way in (False, True)}
        self.plain: set[str] = set()
        for parameter in self._coordinates.slices:
            if parameter.name not in self._stack.uses:
                log.debug("%s has no rank-one rule: probed one at a time", parameter.name)

    def refresh(self) -> None:
        """Begin anew where the network is no longer what it was."""
        new, self._renewed = self._renewed != self._number[0], self._number[0]
        if structure_of(self._network) != self._structure or (new and self._stack.renew()):
            self._set_up()

    @property
    def num_coordinates(self) -> int:
        """Number of trainable weights."""
        self.refresh()
        return self._coordinates.total

    def movable(self, indices: Int[Tensor, " k"]) -> Int[Tensor, " n"]:
        """Those coordinates that are no padding; see `zopde.contracts.movable`."""
        self.refresh()
        return indices[~self._fixed[indices]]

    @property
    def chunk(self) -> int | None:
        """Probes per pass; None until it has been found."""
        return self._chunks.size

    @torch.no_grad()
    def calibrate(self, mu: float = 1e-3) -> int:
        """Find `chunk` now, by some queries whose answers are thrown away; see `Chunks`."""
        self.refresh()
        if self.chunk is None:
            every = torch.arange(self._coordinates.total)
            indices = every[self.stackable(every)]
            # Neighbours, as in a gradient, from the middle: neither first layer nor last.
            indices = indices.roll(-(len(indices) // 2))
            steps = torch.full((len(indices),), mu, dtype=torch.float64)
            with self._stack.at_these_weights():
                self._chunks.calibrate(
                    indices, steps, lambda i, s: self._pass(0, i.sort().values, s)
                )
        return self.chunk or 1

    @torch.no_grad()
    def base(self) -> Float[Tensor, ""]:
        """l(theta): one query."""
        return self._query({})

    @torch.no_grad()
    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(theta + mu e_i) for every i: k queries; see `zopde.contracts.Oracle`."""
        self.refresh()
        if not len(indices):
            return torch.zeros(0)
        order = torch.argsort(indices, stable=True)
        steps = torch.as_tensor(mu, dtype=torch.float64).expand(len(indices))
        together = self.stackable(indices[order])
        shared, others = order[together], order[~together]
        losses = []
        if len(shared):
            calibrates, plain = self.chunk is None, len(self.plain)
            run = partial(self._pass, 0 if calibrates else len(indices))
            with self._stack.at_these_weights():
                losses = in_passes(self._chunks, indices[shared], steps[shared], run)
            if calibrates and (self.verify(self._stack.widest) or len(self.plain) > plain):
                self.checked["queries made again"] += len(shared)
                return self.coordinates(indices, mu)
        losses += self._one_at_a_time(indices[others], steps[others])
        answers = torch.cat(losses)
        result = torch.empty_like(answers)
        result[torch.cat([shared, others]).to(answers.device)] = answers
        return result

    @torch.no_grad()
    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(theta + mu u_j) for every row u_j: q queries; see `zopde.contracts.Oracle`."""
        self.refresh()
        per_pass = self.directions_per_pass
        losses = self._along(directions, per_pass, mu)
        wrong = self.verify(min(per_pass, len(directions)), along=True)
        return self._along(directions, 1, mu) if wrong else losses

    def under(self, objective: Objective) -> Self:
        """The same network, with the same layers in the same mode, under another objective.

        Its code is neither traced nor verified again.
        """
        self.refresh()
        other = copy.copy(self)
        other._objective = objective
        return other

    @contextmanager
    def one_gradient(self) -> Iterator[Checks]:
        """Inside it, all queries meet the same random numbers; see `zopde.contracts`."""
        checks = Checks(0, self._eps, self._warned)
        before = self.checked.total()
        if self.draws.start is None:  # else it is a part of one that has begun
            self._number[0] += 1
        with self.draws.gradient():
            yield checks
        checks.queries = self.checked.total() - before

    def at(self, iteration: int) -> None:
        """Say how many gradients came before; it decides when probes are verified again."""
        self._number[0] = iteration

    def stackable(self, indices: Int[Tensor, " k"]) -> Bool[Tensor, " k"]:
        """True where a sorted coordinate's probe shares a pass with others."""
        known = [
            torch.full_like(positions, parameter.name in self._stack.uses)
            for parameter, positions in self._coordinates.split(indices)
        ]
        return torch.cat(known).bool()

    @property
    def directions_per_pass(self) -> int:
        """How many directions share a pass."""
        together = self._ways[0] and DIRECTIONS not in self.plain
        return self._directions.size(self.chunk or _DIRECTIONS) if together else 1

    def set_gradient(self, gradient: Float[Tensor, " d"]) -> None:
        """Put an estimate into `.grad` of every trainable weight, as `backward()` would.

        Args:
            gradient: (d,), for example `Estimate.gradient`.
        """
        self._coordinates.set_gradient(gradient)

    def _pass(self, total: int, indices: Tensor, steps: Tensor) -> Tensor:
        """The losses of sorted coordinates that share a pass, if that is right.

        They are some of `total`. How many share a pass must be known, or nothing is verified yet.
        """
        width = min(total, self.chunk or 0)
        if self.stackable(indices).all():
            try:
                losses = self._stacked(indices, steps)
                if not self.verify(width) or self.stackable(indices).all():
                    return losses
            except Exception as error:  # user code may raise anything
                if out_of_memory(error) or isinstance(error, SolverError | ObjectiveError):
                    raise
                # Where the fault is the objective's own, the plain way raises it, too.
                answers = torch.cat(self._one_at_a_time(indices, steps))
                self.verify(width)
                names = [p.name for p, _ in self._coordinates.split(indices)]
                why = f"{type(error).__name__}: {first_line(error)}"
                left = {name: why for name in names if name in self._stack.uses}
                self._heed(Found(left))
                return answers
        return torch.cat(self._one_at_a_time(indices, steps))

    def _stacked(self, indices: Tensor, steps: Tensor) -> Tensor:
        """The losses of sorted coordinates that share a pass."""
        blocks, first = [], 0
        for parameter, positions in self._coordinates.split(indices):
            after = first + len(positions)
            blocks.append(ProbeBlock(parameter, first, positions, steps[first:after]))
            first = after
        return self._ask(StackedPass(self._stack, blocks), len(indices))

    def _along(self, directions: Tensor, chunk: int, mu: float = 1.0) -> Tensor:
        return self._directions.losses(directions, mu, chunk, self._ask, self._query)

    @torch.no_grad()
    def verify(self, width: int, along: bool = False) -> bool:
        """Compare both ways where there is reason to, see `Verified`; whether anything is wrong.

        Args:
            width: How many probes share a pass; 0 compares nothing.
            along: Whether they are directions.
        """
        calls = {c for c in self.seen if c.startswith(DIRECTIONS) == along}
        before, number = self._verified[along], self._number[0]
        why = before.why_again(calls, width, number)
        if not (width and calls and why) or self._verify is False:
            return False
        stacked = along and self._directions.follows and self.directions_per_pass > 1
        names = [DIRECTIONS] * stacked if along else [*self._stack.uses]
        if not names:
            return False
        objective = self._objective if self._verify is True else self._verify(self._objective)
        wrong = {} if along else self._inspected(objective)
        left = [name for name in names if name not in wrong]
        twin_of = partial(self._twin, objective)
        found = compare(self._network, twin_of, left, width) if left else Found({})
        known = len(found.unmoved) < len(names)
        found = replace(found, wrong=wrong | found.wrong, queries=found.queries + 2 * (not along))
        # Along directions a loss in steps may be flat.
        if found.still and (found.outside or not along):
            raise unused("losses that no probe of any layer moves")
        if new := before.new(calls):
            self.checked[new] += 0  # counted as `why`, here and after a resume
        self.checked[why] += found.queries
        width, late = max(width, before.width), found.wrong and why == f"gradient {number}"
        verified = replace(before, calls=before.calls | calls, width=width)
        self._verified[along] = replace(verified, gradient=number, known=known)
        doubtful = (before.gradient + 1, number - 1) if late and before.gradient else (1, 0)
        return self._heed(replace(found, doubtful=doubtful))

    def _inspected(self, objective: Objective) -> dict[str, str]:
        """What breaks an assumption of stacked probes, and why; see `Inspection`: two queries."""
        inspection, asked = Inspection(self._network, self._stack), copy.copy(self)
        asked._objective = objective
        try:
            with aside():
                asked._ask(inspection, 2)
        except Exception as error:  # user code may raise anything
            if out_of_memory(error) or isinstance(error, ObjectiveError):
                raise
            log.debug("not inspected to the end: %s", error)
        return inspection.wrong

    def _heed(self, found: Found) -> bool:
        """Ask one at a time from now on what a comparison found wrong; whether there is any."""
        for line in found.lines({p.name: p.stop - p.start for p in self._coordinates.slices}):
            if line not in self._warned:
                self._warned.append(line)
                log.warning(line)
        self.give_up(found.wrong)
        return bool(found.wrong)

    def give_up(self, names: Iterable[str]) -> None:
        """Ask one at a time from now on what has these names."""
        self.plain.update(names)
        for name in names:
            self._stack.uses.pop(name, None)

    def _twin(self, objective: Objective, network: nn.Module) -> Twin:
        twin = WeightOracle(network, objective, self.chunk, None, *self._ways, verify=False)
        twin.give_up(self.plain)
        twin.draws.start = streams()
        return Twin(twin._query, twin._stacked, twin._along)

    def _one_at_a_time(self, indices: Tensor, steps: Tensor) -> list[Tensor]:
        """The losses of sorted coordinates whose parameters are moved in a copy."""
        losses, far = [], iter(steps.tolist())
        for parameter, positions in self._coordinates.split(indices):
            weight = attrgetter(parameter.name)(self._network)
            for position in positions.tolist():
                moved = nudged(weight, position, next(far))
                losses.append(self._query({parameter.name: moved})[None])
        return losses

    def _query(self, moved: dict[str, Tensor]) -> Tensor:

        def network(*args: Any, **named: Any) -> Tensor:  # noqa: ANN401 - as the network takes them
            return self._replaced(moved, *args, **named)

        return self._ask(network, 1)[0]

    def _ask(self, network: Network, num_probes: int) -> Tensor:
        """The objective's losses; the network is afterwards what it was."""
        given = Given(self._network, network)
        with unchanged(self._network), self.draws.query():
            losses = self._objective(given, num_probes)
        is_tensor = isinstance(losses, Tensor)
        if not is_tensor or tuple(losses.shape) != (num_probes,) or losses.is_complex():
            got = f"shape {tuple(losses.shape)}" if is_tensor else repr(losses)
            got = "complex losses" if is_tensor and losses.is_complex() else got
            expected = f"one real loss for each probe, a tensor of shape ({num_probes},)"
            raise ObjectiveError("objective", got=got, expected=expected)
        if not given.called and bool(losses.isfinite().any()):  # a solver may fail before
            raise unused("losses without a call of the network that it is given")
        return losses


def in_passes(chunks: Chunks, indices: Tensor, steps: Tensor, run: Pass) -> list[Tensor]:
    """The losses of k coordinates, pass by pass; one that runs out of memory is cut in half."""
    losses = chunks.calibrate(indices, steps, run) if chunks.size is None else []
    done = sum(map(len, losses))
    while done < len(indices):
        after = min(done + (chunks.size or len(indices)), len(indices))
        try:
            losses.append(run(indices[done:after], steps[done:after]))
            done = after
        except (MemoryError, RuntimeError) as error:
            if after - done == 1 or not out_of_memory(error):
                raise
            chunks.size = (after - done) // 2
            log.warning("out of memory: %d probes per pass from here on", chunks.size)
    return losses
