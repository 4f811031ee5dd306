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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from inspect import signature
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, fx, nn

from zopde.contracts import Objective, repeat_states
from zopde.errors import InputError
from zopde.oracle.chunks import Chunks, Pass
from zopde.oracle.coordinates import Coordinates, LayerChange, ProbeBlock, Replaced, nudged
from zopde.oracle.graph import node_rules, rank_one_uses, trace
from zopde.oracle.norms import BATCH, statistics_per_probe
from zopde.oracle.reuse import BaseRun, CannotReuseError, NodeRule, Reuse, base_run, never_called
from zopde.oracle.vmapped import StackedWeights
from zopde.validate import checked

log = logging.getLogger(__name__)

Rules = dict[fx.Node, NodeRule]
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

    @checked
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
        self._stack = _Stack(network, stacked, reuse)
        self._replaced = Replaced(network)
        self._directions = StackedWeights(network, self._coordinates, self._replaced)
        self._one_by_one = not stacked
        for parameter in self._coordinates.slices:
            if parameter.name not in self._stack.uses:
                log.debug("%s has no rank-one rule: probed one at a time", parameter.name)

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
            every = torch.arange(self._coordinates.total)
            indices = every[self.stackable(every)]
            # Neighbours, as in a gradient, from the middle: neither first layer nor last.
            indices = indices.roll(-(len(indices) // 2))
            steps = torch.full((len(indices),), mu, dtype=torch.float64)
            with self._stack.at_these_weights():
                self._chunks.calibrate(indices, steps, lambda i, s: self._pass(i.sort().values, s))
        return self.chunk or 1

    @torch.no_grad()
    def base(self) -> Float[Tensor, ""]:
        """l(theta): one query."""
        return self._query({})

    @torch.no_grad()
    def coordinates(self, indices: Int[Tensor, " k"], mu: float | Tensor) -> Float[Tensor, " k"]:
        """l(theta + mu e_i) for every i: k queries; see `zopde.contracts.Oracle`."""
        if not len(indices):
            return torch.zeros(0)
        order = torch.argsort(indices, stable=True)
        steps = torch.as_tensor(mu, dtype=torch.float64).expand(len(indices))
        together = self.stackable(indices[order])
        shared, others = order[together], order[~together]
        losses = []
        if len(shared):
            with self._stack.at_these_weights():
                losses = in_passes(self._chunks, indices[shared], steps[shared], self._pass)
        losses += self._one_at_a_time(indices[others], steps[others])
        answers = torch.cat(losses)
        result = torch.empty_like(answers)
        result[torch.cat([shared, others]).to(answers.device)] = answers
        return result

    @torch.no_grad()
    def directions(self, directions: Float[Tensor, "q d"], mu: float) -> Float[Tensor, " q"]:
        """l(theta + mu u_j) for every row u_j: q queries; see `zopde.contracts.Oracle`."""
        chunk = self.directions_per_pass
        return self._directions.losses(directions, mu, chunk, self._objective, self._query)

    def under(self, objective: Objective) -> WeightOracle:
        """The same network, with the same layers in the same mode, under another objective.

        Its code is not traced again.
        """
        other = copy.copy(self)
        other._objective = objective
        other._directions = copy.copy(self._directions)
        return other

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
        return self._directions.size(1 if self._one_by_one else self.chunk or _DIRECTIONS)

    def set_gradient(self, gradient: Float[Tensor, " d"]) -> None:
        """Put an estimate into `.grad` of every trainable weight, as `backward()` would.

        Args:
            gradient: (d,), for example `Estimate.gradient`.
        """
        self._coordinates.set_gradient(gradient)

    def _pass(self, indices: Tensor, steps: Tensor) -> Tensor:
        """The losses of sorted coordinates that share a pass."""
        blocks, first = [], 0
        for parameter, positions in self._coordinates.split(indices):
            after = first + len(positions)
            blocks.append(ProbeBlock(parameter, first, positions, steps[first:after]))
            first = after
        return self._objective(_Pass(self._stack, blocks), len(indices))

    def _one_at_a_time(self, indices: Tensor, steps: Tensor) -> list[Tensor]:
        """The losses of sorted coordinates whose parameters are moved in a copy."""
        losses, far = [], iter(steps.tolist())
        for parameter, positions in self._coordinates.split(indices):
            weight = self._network.get_parameter(parameter.name)
            for position in positions.tolist():
                moved = nudged(weight, position, next(far))
                losses.append(self._query({parameter.name: moved})[None])
        return losses

    def _query(self, moved: dict[str, Tensor]) -> Tensor:
        """The loss with some parameters replaced."""
        # Copied buffers, so that a BatchNorm's running statistics survive a query.
        buffers = {name: buffer.clone() for name, buffer in self._network.named_buffers()}

        def network(*args: Any) -> Tensor:  # noqa: ANN401 - as the network takes them
            return self._replaced({**buffers, **moved}, *args)

        return self._objective(network, 1)[0]


def in_passes(chunks: Chunks, indices: Tensor, steps: Tensor, run: Pass) -> list[Tensor]:
    """The losses of k coordinates, pass by pass.

    A pass that runs out of memory is cut in half and run again.

    Args:
        chunks: How many share a pass.
        indices: (k,), which are moved.
        steps: (k,), how far.
        run: One pass.
    """
    losses = chunks.calibrate(indices, steps, run) if chunks.size is None else []
    done = sum(map(len, losses))
    while done < len(indices):
        after = min(done + (chunks.size or len(indices)), len(indices))
        try:
            losses.append(run(indices[done:after], steps[done:after]))
            done = after
        except (MemoryError, RuntimeError) as error:
            chunks.halve(after - done, error)
    return losses


@final
class _Stack:
    """Answers stacked calls of a network, by the cheapest way that gives the same numbers.

    Where all probes come with the same input (the first step of an unrolled loss; every call
    of a classifier) work is shared up to the layer that a probe moves, see `Reuse`; otherwise
    the whole stacked batch passes every layer.

    Args:
        network: The module.
        stacked: False lets no probes share a batch.
        reuse: False lets every pass go through the whole network.

    Attributes:
        uses: Parameter name -> the places where it acts, for those that can be stacked.
    """

    def __init__(self, network: nn.Module, stacked: bool, reuse: bool) -> None:
        self._network, self._reuse = network, reuse
        self.uses = rank_one_uses(network) if stacked else {}
        self._batch_norms = [m for m in network.modules() if isinstance(m, BATCH)]
        # By what is no tensor in a call: the graph, with how probes pass its nodes.
        self._graphs: dict[tuple[Any, ...], tuple[fx.GraphModule, Rules] | None] = {}
        self._base: BaseRun | None = None

    @contextmanager
    def at_these_weights(self) -> Iterator[None]:
        """Inside this context the weights stay as they are, so passes share one base run."""
        try:
            yield
        finally:
            self._base = None

    def whole(self, blocks: list[ProbeBlock], num_probes: int, args: tuple[Any, ...]) -> Tensor:
        """The answer to a stacked call, (num_probes * batch, ...): every state, every layer.

        Raises:
            InputError: If a moved parameter's layer is never called.
        """
        called: set[str] = set()
        with ExitStack() as stack, self._statistics(lambda x: len(x) // num_probes):
            for block in blocks:
                for use in self.uses[block.parameter.name]:
                    hook = _hook(use.change(block), num_probes, called)
                    stack.callback(use.layer.register_forward_hook(hook).remove)
            answer: Tensor = self._network(*args)
        for block in blocks:
            if block.parameter.name not in called:
                raise never_called(block)
        return answer

    def reused(self, blocks: list[ProbeBlock], args: tuple[Any, ...]) -> Tensor | None:
        """The answer where all probes have the states (batch, ...); None if it is not known."""
        call = signature(self._network.forward).bind(*args)
        call.apply_defaults()
        args, tensors = call.args, [value for value in call.args if isinstance(value, Tensor)]
        if not self._reuse or not tensors:
            return None
        kind = tuple(Tensor if isinstance(value, Tensor) else value for value in args)
        if kind not in self._graphs:
            graph = trace(self._network, args)
            self._graphs[kind] = None if graph is None else (graph, node_rules(graph))
        traced = self._graphs[kind]
        if traced is None:
            return None
        graph, rules = traced
        try:
            with self._statistics(lambda _: len(tensors[0])):
                if self._base is None or not self._base.answers(args):
                    self._base = None  # the old run's memory goes first
                    self._base = base_run(graph, args)
                return Reuse(self._base, rules, self.uses, blocks).answer()
        except CannotReuseError as reason:
            log.debug("no feature reuse: %s", reason)
            self._graphs[kind] = None
            return None

    def _statistics(self, states_of: Callable[[Tensor], int]) -> AbstractContextManager[None]:
        """Every BatchNorm normalises each probe on its own; most networks here have none."""
        norms = self._batch_norms
        return statistics_per_probe(norms, states_of) if norms else nullcontext()


def _hook(
    change: LayerChange, num_probes: int, called: set[str]
) -> Callable[[nn.Module, Any, Tensor], None]:
    """After a layer's call: add what its own probes change."""
    block, name = change.block, change.block.parameter.name

    def own(batch: Tensor) -> Tensor:
        """The block's part of a stacked batch, as a view (k, batch, ...)."""
        if len(batch) % num_probes:
            raise InputError(
                f"batch axis at {name!r}",
                got=len(batch),
                expected=f"a multiple of the {num_probes} probes, as the first axis",
            )
        by_probe = batch.view(num_probes, -1, *batch.shape[1:])
        return by_probe[block.first : block.first + len(block)]

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        called.add(name)
        change.add(own(args[0]), own(output))

    return hook


@final
class _Pass:
    """The network that an objective gets for one pass; see `zopde.contracts.ask_shared`."""

    def __init__(self, stack: _Stack, blocks: list[ProbeBlock]) -> None:
        self._stack = stack
        self._blocks = blocks
        self._num_probes = sum(len(block) for block in blocks)

    def __call__(self, *args: Any) -> Tensor:  # noqa: ANN401
        """Stacked states (num_probes * batch, ...), probe-major, to stacked answers."""
        if _same_for_all(args, self._num_probes):
            first = [v[: len(v) // self._num_probes] if isinstance(v, Tensor) else v for v in args]
            answer = self._stack.reused(self._blocks, tuple(first))
            if answer is not None:
                return answer
        return self._stack.whole(self._blocks, self._num_probes, args)

    def shared(self, *args: Any) -> Tensor:  # noqa: ANN401
        """States (batch, ...) that all probes have in common, to stacked answers."""
        answer = self._stack.reused(self._blocks, args)
        if answer is not None:
            return answer
        repeated = tuple(repeat_states(value, self._num_probes) for value in args)
        return self._stack.whole(self._blocks, self._num_probes, repeated)


def _same_for_all(args: tuple[Any, ...], num_probes: int) -> bool:
    """Whether every tensor of a stacked call repeats the same states for every probe."""

    def repeats(value: Tensor) -> bool:
        if len(value) % num_probes:
            return False
        by_probe = value.view(num_probes, -1, *value.shape[1:])
        # The last probe alone rules most cases out.
        return bool((by_probe[-1] == by_probe[0]).all()) and bool((by_probe == by_probe[:1]).all())

    tensors = [value for value in args if isinstance(value, Tensor)]
    return num_probes > 1 and bool(tensors) and all(repeats(value) for value in tensors)


@final
class WeightOracles:
    """A weight oracle for every objective that a network meets, as an iteration needs it.

    The network is traced once, not at every iteration, and again when a layer, its mode or its
    weights are others. Code that begins to do something else for another reason needs an oracle
    of its own.

    Args:
        chunk: Probes per pass; see `WeightOracle`.
        make: (network, objective, chunk) -> the oracle, where it is another than `WeightOracle`.
    """

    def __init__(self, chunk: int | None = None, make: Callable[..., Any] | None = None) -> None:
        self._chunk, self._make = chunk, make or WeightOracle
        self._latest: tuple[Any, WeightOracle] | None = None

    def __call__(self, network: nn.Module, objective: Objective) -> WeightOracle:
        """The network's oracle under this objective; see `WeightOracle.under`."""
        layers = [(id(layer), layer.training) for layer in network.modules()]
        weights = [(id(p), p.requires_grad) for p in network.parameters()]
        if self._latest is None or self._latest[0] != (layers, weights):
            oracle = self._make(network, objective, chunk=self._chunk)
            self._latest = (layers, weights), oracle
        return self._latest[1].under(objective)
