"""A network whose batch axis holds many probes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, final

from torch import Tensor, fx, nn

from zopde.protocols import Network
from zopde.zo.probes import Block, Site, stacked
from zopde.zo.reuse import CannotReuseError, Reuse, same_for_all, trace

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

    Attributes:
        sites: Parameter name -> the places where it acts, for those that can be stacked.
    """

    def __init__(self, network: nn.Module, sites: dict[str, list[Site]]) -> None:
        self._network = network
        self._graphs: dict[tuple[Any, ...], fx.GraphModule | None] = {}
        graphs = (trace(network), trace(network, ())) if sites else ()
        loose = {id(tensor) for graph in graphs for tensor in _read_outside_layers(graph)}
        self.sites = {
            name: places
            for name, places in sites.items()
            if id(network.get_parameter(name)) not in loose
        }

    @contextmanager
    def probing(self, blocks: list[Block], mu: float) -> Iterator[Network]:
        """A network for one pass; call it only inside this context."""
        num_probes = sum(len(block.positions) for block in blocks)

        def network(*args: Tensor) -> Tensor:
            graph = self._graph_for(args) if same_for_all(args, num_probes) else None
            if graph is not None:
                try:
                    return Reuse(graph, self.sites, blocks, mu).answer(args, num_probes)
                except CannotReuseError as reason:
                    log.debug("no feature reuse: %s", reason)
                    self._graphs[_kind(args)] = None
            with stacked(self._network, self.sites, blocks, num_probes, mu):
                whole: Tensor = self._network(*args)
            return whole

        yield network

    def _graph_for(self, args: tuple[Any, ...]) -> fx.GraphModule | None:
        kind = _kind(args)
        if kind not in self._graphs:
            self._graphs[kind] = trace(self._network, args)
        return self._graphs[kind]


def _kind(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a graph depends on: the arguments that are no tensors."""
    return tuple(Tensor if isinstance(value, Tensor) else value for value in args)


def _read_outside_layers(graph: fx.GraphModule | None) -> list[Tensor]:
    """The tensors that the code reads itself, as in `F.linear(x, self.layer.weight)`."""
    if graph is None:
        return []
    reads = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    return [attrgetter(name)(graph) for name in reads]
