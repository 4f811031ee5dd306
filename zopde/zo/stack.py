"""A network whose batch axis holds many probes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import final

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
        self._graph = trace(network) if sites else None
        loose = _used_outside_layers(self._graph)
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
            if self._graph is not None and same_for_all(args, num_probes):
                try:
                    answer = Reuse(self._graph, self.sites, blocks, mu).answer(args, num_probes)
                except CannotReuseError as reason:
                    log.debug("no feature reuse: %s", reason)
                    self._graph = None
                else:
                    return answer
            with stacked(self._network, self.sites, blocks, num_probes, mu):
                whole: Tensor = self._network(*args)
            return whole

        yield network


def _used_outside_layers(graph: fx.GraphModule | None) -> set[int]:
    """Identities of the tensors that the code reads itself, `F.linear(x, self.layer.weight)`."""
    if graph is None:
        return set()
    reads = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    return {id(attrgetter(name)(graph)) for name in reads}
