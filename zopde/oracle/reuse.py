"""Feature reuse: where all probes see the same input, a probe's work starts at its own layer.

    f_theta(x) = f_{theta >= l}(z_l),   z_l the unperturbed activations before layer l

(Chen et al., ICLR 2024, section 4.) The network runs once, node by node of its torch.fx graph, and
every value is kept. A pass of probes visits only the nodes behind a moved layer. A value holds,
beside the base's, one part for each block of probes that has come by: absent while its layer lies
ahead (they have the base's value: skips come out right), `Thin` while they differ in one channel.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.oracle.fused.moved_weight import behind_pool, chain_after
from zopde.oracle.graph import (
    Base,
    CannotReuseError,
    check_batch,
    module_type,
    name_of,
    out_of_place,
)
from zopde.oracle.norms import NORMS, statistics_per_probe
from zopde.oracle.one_channel import Thin, joined, through_binary, through_function, through_module
from zopde.oracle.per_channel import max_pool
from zopde.oracle.rank_one import CONVS, Block, Share, Site, moved_planes, never_called, share

_LAYERS = (*CONVS, *NORMS, nn.Linear)
_TOGETHER = (operator.add, operator.sub, operator.mul, operator.truediv)


@final
class Reuse:
    """One pass of probes over a base run.

    Args:
        base: The unperturbed run.
        graph: The traced network.
        sites: Parameter name -> the places where it acts.
        blocks: The probes of this pass, in order.
    """

    def __init__(
        self, base: Base, graph: fx.GraphModule, sites: dict[str, list[Site]], blocks: list[Block]
    ) -> None:
        self._base = base
        self._graph = graph
        self._blocks = blocks
        self._shares: dict[nn.Module, list[tuple[int, Share]]] = {}
        for i, block in enumerate(blocks):
            for site in sites[block.slot.name]:
                self._shares.setdefault(site.module, []).append((i, share(site, block)))
        self._parts: dict[fx.Node, dict[int, Any]] = {}
        self._ahead: dict[fx.Node, dict[int, Any]] = {}  # computed before their node's turn

    def answer(self) -> Tensor:
        """The network's answer for every probe.

        Returns:
            (num_probes * batch, ...), probe-major.

        Raises:
            CannotReuseError: If a node mixes or drops states; the plain pass still can.
            InputError: If the layer of a moved weight is never called.
        """
        nodes = list(self._graph.graph.nodes)
        called: set[int] = set()
        with (
            statistics_per_probe(self._graph, lambda _: self._base.batch),
            out_of_place(self._graph),
        ):
            for node in nodes[:-1]:
                self._visit(node, called)
                for source in node.all_input_nodes:
                    if self._base.last_use[source] is node:
                        self._parts.pop(source, None)
        for i, block in enumerate(self._blocks):
            if i not in called:
                raise never_called(block)
        return self._gathered(nodes[-1].args[0])

    def _gathered(self, last: Any) -> Tensor:  # noqa: ANN401
        if not isinstance(last, fx.Node) or not isinstance(self._base.values[last], Tensor):
            raise CannotReuseError("the answer is not one tensor")
        parts = self._parts.get(last, {})
        whole = [self._whole(last, parts.get(i), i) for i in range(len(self._blocks))]
        return torch.cat(whole).contiguous()  # a loss may well call `view`

    def _visit(self, node: fx.Node, called: set[int]) -> None:
        parts: dict[int, Any] = self._ahead.pop(node, {})
        for i in self._arrived(node):
            if not self._crossed(node, i):
                parts[i] = self._run(node, i)
        if node.op == "call_module":
            module = self._graph.get_submodule(str(node.target))
            for i, change in self._shares.get(module, ()):
                called.add(i)
                joined = self._join(node, i, change, parts.get(i))
                if joined is not None:
                    parts[i] = joined
        if parts:
            self._parts[node] = parts

    def _arrived(self, node: fx.Node) -> list[int]:
        """The blocks that some input of the node differs for."""
        found = {i for source in node.all_input_nodes for i in self._parts.get(source, ())}
        return sorted(found)

    def _join(self, node: fx.Node, i: int, change: Share, found: Any) -> Any:  # noqa: ANN401
        """Let a layer's own probes differ from here on; None: from a later node on."""
        source = node.all_input_nodes[0]
        x, y = self._base.values[source], self._base.values[node]
        k, part = len(self._blocks[i]), self._parts.get(source, {}).get(i)
        if part is None and found is None and change.channels_first(y):
            value = self._moved(node, i, change, x, y)
            return None if value is None else Thin(value, change.channels)
        probes = x.expand(k, *x.shape)
        if part is not None:
            probes = self._whole(source, part, i).view(k, *x.shape)
        whole = self._whole(node, found, i).view(k, *y.shape)
        change.add(probes, whole)
        return whole.flatten(0, 1)

    def _moved(self, node: fx.Node, i: int, change: Share, x: Tensor, y: Tensor) -> Tensor | None:
        """The probes' channels of a layer's output, (batch, k, ...); None: of a later node's."""
        if y.device.type != "cpu" or y.dim() != 4:
            return y[:, change.channels] + change.of_base(x)
        module: Any = self._graph.get_submodule(str(node.target))
        chain = chain_after(node, self._graph, y)
        if chain:
            pieces = partial(self._base.pieces, node, module, x, y, chain.window)
            steps, out = self._blocks[i].steps, self._base.values[chain.end]
            value = behind_pool(chain, change, steps, out, pieces)
            if value is not None:
                self._ahead.setdefault(chain.end, {})[i] = Thin(value, change.channels)
                return None
        if change.moves:
            return moved_planes(module, change.moves(), *self._base.planes(node, module, x, y))
        planes = self._base.planes(node, module, x, y)[1]
        apart = planes.transpose(0, 1)[change.channels].transpose(0, 1)
        return apart + change.of_base(x)

    def _crossed(self, node: fx.Node, i: int) -> bool:
        """Let thin probes pass a convolution, its norm and the pool behind it at once."""
        source = node.all_input_nodes[0]
        x, y, thin = self._base.values[source], self._base.values[node], self._part(source, i)
        if module_type(node, self._graph) is not nn.Conv2d or not isinstance(thin, Thin):
            return False
        conv: Any = self._graph.get_submodule(str(node.target))
        here = conv.groups == 1 and y.device.type == "cpu"
        chain = chain_after(node, self._graph, y) if here else None
        if chain is None or any(i == j for m in chain.layers for j, _ in self._shares.get(m, ())):
            return False
        crossing = self._base.crossing(node, conv, y, chain)
        self._ahead.setdefault(chain.end, {})[i] = crossing(thin, x)
        return True

    def _run(self, node: fx.Node, i: int) -> Any:  # noqa: ANN401
        """A node's value for block i, as thin as it can be."""
        if _is_number(self._base.values[node]):
            return self._number(node, i)
        held = {s: part for s in node.all_input_nodes if (part := self._part(s, i)) is not None}
        if all(isinstance(part, Thin) for part in held.values()):
            thin = self._thin(node, held)
            if thin is not None:
                return thin
        spare = next((s for s in held if self._is_spare(s, held[s], node)), None)
        if spare and self._is_relu(node):
            found: Any = torch.relu_(held[spare])
        elif node.op == "call_function" and node.target in _TOGETHER:
            found = self._broadcast(node, i, spare)
        elif held and module_type(node, self._graph) is nn.MaxPool2d:
            pool: Any = self._graph.get_submodule(str(node.target))
            source = node.all_input_nodes[0]
            found = max_pool(pool, self._whole(source, held[source], i))
        else:
            found = self._call(node, lambda source: self._whole(source, held.get(source), i))
        check_batch(found, len(self._blocks[i]) * self._base.batch)
        return found

    def _is_spare(self, source: fx.Node, part: Any, node: fx.Node) -> bool:  # noqa: ANN401
        """Whether `node` may write over its input: a layer's own answer that it alone reads."""
        if not isinstance(part, Tensor) or list(source.users) != [node]:
            return False
        if source.op == "call_module":
            return isinstance(self._graph.get_submodule(str(source.target)), _LAYERS)
        return source.op == "call_function" and source.target in _TOGETHER

    def _is_relu(self, node: fx.Node) -> bool:
        called = node.op == "call_function" and node.target in (F.relu, torch.relu)
        return called or module_type(node, self._graph) is nn.ReLU

    def _broadcast(self, node: fx.Node, i: int, spare: fx.Node | None) -> Any:  # noqa: ANN401
        """Entry by entry: where the probes have the base's value it is not repeated."""
        k = len(self._blocks[i])

        def value(source: Any) -> Any:  # noqa: ANN401
            if not isinstance(source, fx.Node):
                return source
            base, part = self._base.values[source], self._part(source, i)
            if not isinstance(base, Tensor) or source not in self._base.states:
                return self._whole(source, part, i)
            return base if part is None else self._whole(source, part, i).view(k, *base.shape)

        if spare and node.target is operator.add:
            other = next((a for a in node.args if a is not spare), spare)
            whole, more = value(spare), value(other)
            if isinstance(more, Tensor) and more.dtype == whole.dtype:
                return whole.add_(more).flatten(0, 1)
        found = self._call(node, value)
        return found.flatten(0, 1) if isinstance(found, Tensor) else found

    def _part(self, source: fx.Node, i: int) -> Any:  # noqa: ANN401
        return self._parts.get(source, {}).get(i)

    def _call(self, node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:  # noqa: ANN401
        args, kwargs = map_arg((node.args, node.kwargs), value)
        return getattr(self._base, node.op)(node.target, args, kwargs)

    def _thin(self, node: fx.Node, held: dict[fx.Node, Any]) -> Thin | Tensor | None:
        sources, values = node.all_input_nodes, self._base.values
        first = sources[0]
        if node.op == "call_module":
            module = self._graph.get_submodule(str(node.target))
            return through_module(module, held[first], values[first], values[node])
        name = name_of(node)
        if len(sources) == 1 and node.args[:1] == (first,):
            answer = through_function(
                name,
                held[first],
                values[first],
                lambda value: self._call(node, lambda _: value),
                node.args[1:],
                node.kwargs,
            )
            if answer is not None:
                return answer
        if name == "cat":
            inputs: Any = node.args[0]
            dim: Any = (*node.args[1:], node.kwargs.get("dim", 0))[0]
            if isinstance(inputs, list | tuple) and all(s in self._base.states for s in inputs):
                return joined([held.get(s) for s in inputs], [values[s] for s in inputs], dim)
            return None
        return self._thin_binary(node, name, held)

    def _thin_binary(
        self, node: fx.Node, name: str, held: dict[fx.Node, Any]
    ) -> Thin | Tensor | None:
        if node.op not in ("call_function", "call_method") or len(node.args) != 2:
            return None
        nodes = [a if isinstance(a, fx.Node) else None for a in node.args]
        thins = [held.get(n) if n else None for n in nodes]
        bases = [self._base.values[n] if n else a for n, a in zip(nodes, node.args, strict=True)]

        def call(*parts: Any) -> Tensor:  # noqa: ANN401
            found: Tensor = getattr(self._base, node.op)(node.target, parts, node.kwargs)
            return found

        return through_binary(name, thins, bases, call)

    def _whole(self, source: fx.Node, part: Any, i: int) -> Any:  # noqa: ANN401
        """The value for every probe of block i, (k * batch, ...)."""
        base = self._base.values[source]
        if isinstance(part, Thin):
            return part.widen(base)
        if part is not None or source not in self._base.states:
            return base if part is None else part
        k = len(self._blocks[i])

        def repeated(value: Any) -> Any:  # noqa: ANN401
            return torch.cat([value] * k) if isinstance(value, Tensor) else value

        if _is_number(base):
            return self._number(source, i)
        return map_aggregate(base, repeated)

    def _number(self, node: fx.Node, i: int) -> Any:  # noqa: ANN401
        """A size that the code reads, as it is for the stacked batch; nothing is computed."""
        states = len(self._blocks[i]) * self._base.batch

        def value(source: fx.Node) -> Any:  # noqa: ANN401
            base = self._base.values[source]
            if source not in self._base.states:
                return base
            if isinstance(base, Tensor):
                return torch.empty((states, *base.shape[1:]), dtype=base.dtype, device="meta")
            return self._number(source, i)

        return self._call(node, value)


def _is_number(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, list | tuple):
        return all(_is_number(part) for part in value)
    return not isinstance(value, Tensor)
