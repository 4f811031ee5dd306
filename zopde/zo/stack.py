"""A network whose batch axis holds many probes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from operator import attrgetter
from typing import Any, final

from torch import Tensor, fx, nn

from zopde.protocols import Network, repeat_states
from zopde.zo.base import Base, CannotReuseError, base_run
from zopde.zo.probes import stacked
from zopde.zo.rank_one import Block, Site
from zopde.zo.reuse import Reuse
from zopde.zo.tracing import trace

log = logging.getLogger(__name__)


@final
class Stack:
    """Answers stacked calls of a network, by the cheapest way that gives the same numbers.

    Where all probes come with the same input (the first step of an unrolled loss; every call
    of a classifier) work is shared up to the layer that a probe moves, see `Reuse`; otherwise
    the whole stacked batch passes every layer.

    Args:
        network: The module.
        sites: From `rank_one_sites`; a weight that the network's code also uses outside its
            layer is left out.
        reuse: False lets every pass go through the whole network.

    Attributes:
        sites: Parameter name -> the places where it acts, for those that can be stacked.
    """

    def __init__(self, network: nn.Module, sites: dict[str, list[Site]], reuse: bool) -> None:
        self._network = network
        self._reuse = reuse
        self._graphs: dict[tuple[Any, ...], fx.GraphModule | None] = {}
        self._base: Base | None = None
        graphs = (trace(network), trace(network, ())) if sites else ()
        loose = {id(tensor) for graph in graphs for tensor in _read_outside_layers(graph)}
        self.sites = {
            name: places
            for name, places in sites.items()
            if id(network.get_parameter(name)) not in loose
        }

    @contextmanager
    def at_these_weights(self) -> Iterator[None]:
        """Inside this context the weights stay as they are, so passes share one base run."""
        try:
            yield
        finally:
            self._base = None

    @contextmanager
    def probing(self, blocks: list[Block]) -> Iterator[Network]:
        """A network for one pass; call it only inside this context."""
        yield _Pass(self, blocks)

    def whole(self, blocks: list[Block], num_probes: int, args: tuple[Any, ...]) -> Tensor:
        """The answer to a stacked call, (num_probes * batch, ...): every state, every layer."""
        with stacked(self._network, self.sites, blocks, num_probes):
            answer: Tensor = self._network(*args)
        return answer

    def reused(self, blocks: list[Block], args: tuple[Any, ...]) -> Tensor | None:
        """The answer where all probes have the states (batch, ...); None if it is not known."""
        args = self._with_defaults(args)
        kind = _kind(args)
        if not self._reuse or not any(isinstance(value, Tensor) for value in args):
            return None
        if kind not in self._graphs:
            self._graphs[kind] = trace(self._network, args)
        graph = self._graphs[kind]
        if graph is None:
            return None
        try:
            if self._base is None or not self._base.answers(args):
                self._base = None  # the old run's memory goes first
                self._base = base_run(graph, args)
            return Reuse(self._base, graph, self.sites, blocks).answer()
        except CannotReuseError as reason:
            log.debug("no feature reuse: %s", reason)
            self._graphs[kind] = None
            return None

    def _with_defaults(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        call = signature(self._network.forward).bind(*args)
        call.apply_defaults()
        return call.args


@final
class _Pass:
    """The network of one pass of probes."""

    def __init__(self, stack: Stack, blocks: list[Block]) -> None:
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


def _kind(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a graph depends on: the arguments that are no tensors."""
    return tuple(Tensor if isinstance(value, Tensor) else value for value in args)


def _same_for_all(args: tuple[Any, ...], num_probes: int) -> bool:
    """Whether every tensor of a stacked call repeats the same states for every probe."""

    def repeats(value: Tensor) -> bool:
        if len(value) % num_probes:
            return False
        apart = value.view(num_probes, -1, *value.shape[1:])
        # The last probe alone rules most cases out.
        same = bool((apart[-1] == apart[0]).all())
        return same and bool((apart == apart[:1]).all())

    tensors = [value for value in args if isinstance(value, Tensor)]
    return num_probes > 1 and bool(tensors) and all(repeats(value) for value in tensors)


def _read_outside_layers(graph: fx.GraphModule | None) -> list[Tensor]:
    """The tensors that the code reads itself, as in `F.linear(x, self.layer.weight)`."""
    if graph is None:
        return []
    reads = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    return [attrgetter(name)(graph) for name in reads]
