"""The oracle of a network's weights."""

from __future__ import annotations

import copy
import logging
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zopde.contracts import Objective
from zopde.oracle.chunks import Chunks
from zopde.oracle.coordinates import Coordinates
from zopde.oracle.rank_one import Block
from zopde.oracle.stack import Stack, rank_one_sites
from zopde.oracle.vmapped import Replaced, StackedWeights

log = logging.getLogger(__name__)

_DIRECTIONS = 16  # each is a copy of all weights


@final
class WeightOracle:
    """Answers l(theta + mu e_i), theta being the weights of a network.

    Probes of convolutions and linear layers are answered `chunk` at a time in one stacked
    batch; any other parameter is moved in a copy, one at a time, with the same numbers. The
    network is only read: its weights and buffers are the same objects with the same values
    afterwards, and no autograd graph is built.

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

    Raises:
        InputError: If `chunk` or `memory` is not positive.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        chunk: int | None = None,
        memory: int | None = None,
        stacked: bool = True,
        reuse: bool = True,
    ) -> None:
        self._network = network
        self._objective = objective
        self._chunks = Chunks(chunk, memory)
        self._coordinates = Coordinates(network)
        self._stack = Stack(network, rank_one_sites(network) if stacked else {}, reuse)
        self._replaced = Replaced(network)
        self._directions = StackedWeights(network, self._coordinates, objective, self._ask_moved)
        self._one_by_one = not stacked
        for slot in self._coordinates.slots:
            if slot.name not in self._stack.sites:
                log.debug("%s has no rank-one rule: probed one at a time", slot.name)

    @property
    def num_coordinates(self) -> int:
        """Number of trainable weights."""
        return self._coordinates.total

    @property
    def chunk(self) -> int | None:
        """Probes per pass; None until it has been found."""
        return self._chunks.size

    @torch.no_grad()
    def calibrate(self, mu: float = 1e-3) -> int:
        """Find `chunk` now, by some queries whose answers are thrown away; see `Chunks`."""
        if self.chunk is None:
            parts = self._coordinates.split(torch.arange(self._coordinates.total))
            known = [pos + slot.start for slot, pos in parts if slot.name in self._stack.sites]
            indices = torch.cat([torch.zeros(0, dtype=torch.long), *known])
            # Neighbours, as in a gradient, from the middle: neither first layer nor last.
            indices = indices.roll(-(len(indices) // 2))
            steps = torch.full((len(indices),), mu, dtype=torch.float64)
            with self._stack.at_these_weights():
                self._chunks.calibrate(indices, steps, lambda i, s: self._pass(i.sort().values, s))
        return self.chunk or 1

    @torch.no_grad()
    def base(self) -> Float[Tensor, ""]:
        """l(theta): one query."""
        return self._ask_moved({})

    @torch.no_grad()
    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(theta + mu e_i) for every i: k queries; see `zopde.contracts.Oracle`."""
        if not len(indices):
            return torch.zeros(0)
        order = torch.argsort(indices, stable=True)
        steps = torch.as_tensor(mu, dtype=torch.float64).expand(len(indices))[order]
        parts = self._coordinates.split(indices[order])
        far = steps.split([len(positions) for _, positions in parts])
        stackable = [slot.name in self._stack.sites for slot, _ in parts]
        together = [
            (pos + slot.start, step)
            for (slot, pos), step, yes in zip(parts, far, stackable, strict=True)
            if yes
        ]
        with self._stack.at_these_weights():
            answered = iter(self._stacked(together))
        losses = [
            next(answered) if yes else self._one_at_a_time(slot.name, pos, step)
            for (slot, pos), step, yes in zip(parts, far, stackable, strict=True)
        ]
        in_order = torch.cat(losses)
        result = torch.empty_like(in_order)
        result[order.to(in_order.device)] = in_order
        return result

    @torch.no_grad()
    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(theta + mu u_j) for every row u_j: q queries; see `zopde.contracts.Oracle`."""
        return self._directions.answer(directions, mu, self._together)

    def under(self, objective: Objective) -> WeightOracle:
        """The same network, with the same layers in the same mode, under another objective.

        Its code is not traced again.
        """
        other = copy.copy(self)
        other._objective = objective
        other._directions = self._directions.under(objective, other._ask_moved)
        return other

    def stackable(self, indices: Int[Tensor, " k"]) -> Bool[Tensor, " k"]:
        """True where a sorted coordinate's probe shares a pass with others."""
        parts = self._coordinates.split(indices)
        known = [torch.full_like(pos, slot.name in self._stack.sites) for slot, pos in parts]
        return torch.cat(known).bool()

    @property
    def directions_per_pass(self) -> int:
        """How many directions share a pass."""
        return self._directions.size(self._together)

    @property
    def _together(self) -> int:
        return 1 if self._one_by_one else self.chunk or _DIRECTIONS

    def set_gradient(self, gradient: Float[Tensor, " d"]) -> None:
        """Put an estimate into `.grad` of every trainable weight, as `backward()` would.

        Args:
            gradient: (d,), for example `Estimate.gradient`.
        """
        self._coordinates.set_gradient(gradient)

    def _stacked(self, parts: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Answer sorted coordinates and their steps chunk by chunk; one result per part."""
        if not parts:
            return []
        indices = torch.cat([part for part, _ in parts])
        steps = torch.cat([step for _, step in parts])
        answers = self._chunks.answer(indices, steps, self._pass)
        return list(answers.split([len(part) for part, _ in parts]))

    def _pass(self, indices: Tensor, steps: Tensor) -> Tensor:
        blocks, first = [], 0
        for slot, positions in self._coordinates.split(indices):
            after = first + len(positions)
            blocks.append(Block(slot, first, positions, steps[first:after]))
            first = after
        with self._stack.probing(blocks) as network:
            return self._objective(network, len(indices))

    def _one_at_a_time(self, name: str, positions: Tensor, steps: Tensor) -> Tensor:
        weight = self._network.get_parameter(name)
        answers = []
        for position, step in zip(positions.tolist(), steps.tolist(), strict=True):
            moved = weight.detach().clone(memory_format=torch.contiguous_format)
            moved.view(-1)[position] += step
            answers.append(self._ask_moved({name: moved}))
        return torch.stack(answers)

    def _ask_moved(self, moved: dict[str, Tensor]) -> Tensor:
        # Copied buffers, so that a BatchNorm's running statistics survive a query.
        buffers = {name: buffer.clone() for name, buffer in self._network.named_buffers()}

        def network(*args: Any) -> Tensor:  # noqa: ANN401 - as the network takes them
            return self._replaced({**buffers, **moved}, *args)

        return self._objective(network, 1)[0]


@final
class WeightOracles:
    """A weight oracle for every objective that a network meets, as an iteration needs it.

    The network is traced once, not at every iteration, and again when a layer, its mode or its
    weights are others. Code that begins to do something else for another reason needs an oracle
    of its own.

    Args:
        chunk: Probes per pass; see `WeightOracle`.
    """

    def __init__(self, chunk: int | None = None) -> None:
        self._chunk = chunk
        self._latest: tuple[Any, WeightOracle] | None = None

    def __call__(self, network: nn.Module, objective: Objective) -> WeightOracle:
        """The network's oracle under this objective; see `WeightOracle.under`."""
        parts = [(id(part), part.training) for part in network.modules()]
        weights = [(id(p), p.requires_grad) for p in network.parameters()]
        if self._latest is None or self._latest[0] != (parts, weights):
            made = WeightOracle(network, objective, self._chunk)
            self._latest = (parts, weights), made
        return self._latest[1].under(objective)
