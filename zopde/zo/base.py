"""The unperturbed run of a network, which all probes of a gradient share."""

from __future__ import annotations

import logging
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from zopde.zo.crossing import Crossing
from zopde.zo.norms import statistics_per_probe
from zopde.zo.planes import in_planes
from zopde.zo.pooled import Chain, Pieces
from zopde.zo.rank_one import CONVS, pad
from zopde.zo.tracing import out_of_place

log = logging.getLogger(__name__)


class CannotReuseError(Exception):
    """The graph does something with the batch axis that reuse cannot follow."""


def base_run(graph: fx.GraphModule, args: tuple[Any, ...]) -> Base:
    """The unperturbed run of a graph, in the memory format that is faster.

    On a CPU, norms of images with the channels last take a third of the time, and convolutions
    need no reordering (`benchmarks/deepzero.py`). Code that flattens by `view` cannot have it.
    """
    images = [v for v in args if isinstance(v, Tensor) and v.dim() == 4 and v.device.type == "cpu"]
    if images:
        last = [
            v.contiguous(memory_format=torch.channels_last) if any(v is i for i in images) else v
            for v in args
        ]
        try:
            return Base(graph, tuple(last), args)
        except RuntimeError as error:
            log.debug("no channels-last memory format: %s", error)
    return Base(graph, args, args)


@final
class Base(fx.Interpreter):
    """The unperturbed run of a graph, every value kept.

    Args:
        graph: The traced network.
        args: As the network would get them: tensors of (batch, ...).
        given: The arguments that this run is to answer for.

    Attributes:
        batch: States of the call.
        values: Node -> its value.
        last_use: Node -> the last one that reads it.
    """

    def __init__(
        self, graph: fx.GraphModule, args: tuple[Any, ...], given: tuple[Any, ...]
    ) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self._given = given
        self._planes: tuple[fx.Node, Tensor, Tensor] | None = None
        self._pieces: tuple[fx.Node, Pieces] | None = None
        self._crossing: tuple[fx.Node, Crossing] | None = None
        self.batch = next(len(value) for value in args if isinstance(value, Tensor))
        self.states: set[fx.Node] = set()
        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        for node, value in zip(placeholders, args, strict=True):
            if isinstance(value, Tensor):
                self.states.add(node)
        with statistics_per_probe(graph, lambda _: self.batch), out_of_place(graph):
            self.run(*args)
        self.values: dict[fx.Node, Any] = self.env
        nodes = graph.graph.nodes
        self.last_use = {source: node for node in nodes for source in node.all_input_nodes}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - fx's own signature
        """Run one node, and refuse where a value of states lost its batch axis."""
        value = super().run_node(n)
        if n.op == "output" or self.states.isdisjoint(n.all_input_nodes):
            return value
        self.states.add(n)
        check_batch(value, self.batch)
        return value

    def planes(
        self, node: fx.Node, module: nn.Module, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Input and output of a layer, a convolution's padded, each channel's values together.

        Only a convolution's input is turned: no other layer is read plane by plane. Those of the
        last layer that was asked for are kept: probes come layer by layer.
        """
        if self._planes is None or self._planes[0] is not node:
            read = in_planes(pad(module, x)) if isinstance(module, CONVS) else x
            self._planes = node, read, in_planes(y)
        return self._planes[1:]

    def pieces(
        self, node: fx.Node, conv: nn.Conv2d, x: Tensor, y: Tensor, window: tuple[int, int]
    ) -> Pieces:
        """The planes of a convolution, cut up for a pool behind it; kept as `planes` are."""
        if self._pieces is None or self._pieces[0] is not node:
            self._pieces = node, Pieces(conv, x, y, window)
        return self._pieces[1]

    def crossing(self, node: fx.Node, conv: nn.Conv2d, y: Tensor, chain: Chain) -> Crossing:
        """A convolution with the norm and the pool behind it; kept as `planes` are."""
        if self._crossing is None or self._crossing[0] is not node:
            self._crossing = node, Crossing(conv, chain.norm, chain.window, y)
        return self._crossing[1]

    def answers(self, args: tuple[Any, ...]) -> bool:
        """Whether this is the run of `args`."""
        return len(args) == len(self._given) and all(
            a is b or (isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b))
            for a, b in zip(args, self._given, strict=True)
        )


def check_batch(value: Any, states: int) -> None:  # noqa: ANN401
    """Require every tensor of a value to hold `states` states."""

    def check(part: Any) -> Any:  # noqa: ANN401
        if isinstance(part, Tensor) and (part.dim() == 0 or len(part) != states):
            raise CannotReuseError(f"a value of shape {tuple(part.shape)} has no batch axis")
        return part

    map_aggregate(value, check)
