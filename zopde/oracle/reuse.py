"""Feature reuse: where all probes see the same input, a probe's work starts at its own layer.

    f_theta(x) = f_{theta >= l}(z_l),   z_l the unperturbed activations before layer l

(Chen et al., ICLR 2024, section 4.) The network runs once, node by node of its torch.fx graph, and
every value is kept: the base run. A pass of probes visits only the nodes behind a moved layer, and
a table says how probes pass each of them (`NodeRule`). Besides the base's value, a node has one
value for every block of probes that has come by: none while the block's layer lies ahead (so skips
come out right), `OneChannel` while the probes differ in one channel, whole states from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, final

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from zopde.errors import InputError
from zopde.oracle.coordinates import LayerChange, ProbeBlock, Use
from zopde.oracle.one_channel import CONVS, OneChannel, Rule, Visit, channel_major, pad
from zopde.oracle.state import is_states

log = logging.getLogger(__name__)

T = TypeVar("T")


class CannotReuseError(Exception):
    """The graph does something with the batch axis that reuse cannot follow."""


class Shortcut(Protocol):
    """Takes probes from a layer past the nodes behind it in one go."""

    end: fx.Node  # whose value it gives
    layers: tuple[nn.Module, ...]  # those on the way that have weights

    def start(self, base: BaseRun, change: LayerChange) -> OneChannel | None:
        """The end's value for probes that move weights of the layer; None: the long way."""

    def cross(self, base: BaseRun, probes: OneChannel) -> Tensor | None:
        """The end's value for probes at the layer's input; None: the long way."""


@final
@dataclass(frozen=True)
class NodeRule:
    """How probes pass one node of the graph."""

    layer: nn.Module | None  # the module that it calls; None for a function
    one_channel: Rule | None  # for probes that differ from the base in one channel each
    shortcut: Shortcut | None  # past the nodes behind it; None where there is none


def base_run(graph: fx.GraphModule, args: tuple[Any, ...]) -> BaseRun:
    """The unperturbed run of a graph, in the memory format that is faster.

    On a CPU, norms of images with the channels last take a third of the time, and convolutions
    need no reordering (`benchmarks/deepzero.py`). Code that flattens by `view` cannot have it.
    """

    def last(value: Any) -> Any:  # noqa: ANN401
        image = isinstance(value, Tensor) and value.dim() == 4 and value.device.type == "cpu"
        return value.contiguous(memory_format=torch.channels_last) if image else value

    try:
        return BaseRun(graph, tuple(map(last, args)), args)
    except RuntimeError as error:
        log.debug("no channels-last memory format: %s", error)
        return BaseRun(graph, args, args)


@final
class BaseRun(fx.Interpreter):
    """The unperturbed run of a graph on `args`, every value kept; it answers for `given`."""

    def __init__(
        self, graph: fx.GraphModule, args: tuple[Any, ...], given: tuple[Any, ...]
    ) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self._given = given
        self._made: dict[str, tuple[fx.Node, Any]] = {}
        nodes = graph.graph.nodes
        self.batch = next(len(value) for value in args if is_states(value))
        inputs = zip((n for n in nodes if n.op == "placeholder"), args, strict=True)
        self.states = {node for node, value in inputs if is_states(value)}  # have a batch axis
        self.run(*args)
        self.values: dict[fx.Node, Any] = self.env
        # Node -> the last one that reads it.
        self.last_use = {source: node for node in nodes for source in node.all_input_nodes}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - fx's own signature
        """Run one node, and refuse where a value of states lost its batch axis."""
        value = super().run_node(n)
        if n.op == "output" or self.states.isdisjoint(n.all_input_nodes):
            return value
        self.states.add(n)
        check_batch(value, self.batch)
        return value

    def answers(self, args: tuple[Any, ...]) -> bool:
        """Whether this is the run of `args`."""
        return len(args) == len(self._given) and all(
            a is b or (isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b))
            for a, b in zip(args, self._given, strict=True)
        )

    def once(self, node: fx.Node, kind: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once for a node.

        It is held until another node makes something of this kind: probes come layer by layer.
        """
        if kind not in self._made or self._made[kind][0] is not node:
            self._made[kind] = node, make()
        made: T = self._made[kind][1]
        return made

    def call(self, node: fx.Node, value_of: Callable[[fx.Node], Any]) -> Any:  # noqa: ANN401
        """The node's value where its sources have others."""
        args, kwargs = map_arg((node.args, node.kwargs), value_of)
        return getattr(self, node.op)(node.target, args, kwargs)

    def whole(self, source: fx.Node, value: Any, k: int) -> Any:  # noqa: ANN401
        """A node's value for each of k probes, (k * batch, ...), from what they have there.

        That is None where they have the base's.
        """
        base = self.values[source]
        if isinstance(value, OneChannel):
            return value.widen(base)
        if value is not None or source not in self.states:
            return base if value is None else value
        if is_number(base):
            return self.number(source, k)
        return map_aggregate(base, lambda v: torch.cat([v] * k) if isinstance(v, Tensor) else v)

    def number(self, node: fx.Node, k: int) -> Any:  # noqa: ANN401
        """A size that the code reads, as it is for the stacked batch; nothing is computed."""
        if self.values[node] is None:
            return None

        def value_of(source: fx.Node) -> Any:  # noqa: ANN401
            base = self.values[source]
            if source not in self.states:
                return base
            if isinstance(base, Tensor):
                shape = (k * self.batch, *base.shape[1:])
                return torch.empty(shape, dtype=base.dtype, device="meta")
            return self.number(source, k)

        return self.call(node, value_of)


@final
class Reuse:
    """One pass of probes, blocks of them in order, over a base run."""

    def __init__(
        self,
        base: BaseRun,
        rules: dict[fx.Node, NodeRule],
        uses: dict[str, list[Use]],
        blocks: list[ProbeBlock],
    ) -> None:
        self._base, self._rules, self._blocks = base, rules, blocks
        self._changes: dict[nn.Module | None, list[tuple[int, LayerChange]]] = {}
        for i, block in enumerate(blocks):
            for use in uses[block.parameter.name]:
                self._changes.setdefault(use.layer, []).append((i, use.change(block)))
        # Node -> number of a block -> its probes there; absent where they have the base's value.
        self._probes: dict[fx.Node, dict[int, Any]] = {}
        self._early: dict[fx.Node, dict[int, Any]] = {}  # computed before their node's turn

    def answer(self) -> Tensor:
        """The network's answer for every probe, (num_probes * batch, ...), probe-major.

        Raises:
            CannotReuseError: If a node mixes or drops states; the plain pass still can.
            InputError: If the layer of a moved weight is never called.
        """
        *nodes, output = self._rules
        started: set[int] = set()
        for node in nodes:
            self._visit(node, started)
            for source in node.all_input_nodes:
                if self._base.last_use[source] is node:
                    self._probes.pop(source, None)
        for i, block in enumerate(self._blocks):
            if i not in started:
                raise never_called(block)
        last: Any = output.args[0]
        if not isinstance(last, fx.Node) or not isinstance(self._base.values[last], Tensor):
            raise CannotReuseError("the answer is not one tensor")
        ends = enumerate(self._blocks)
        answers = [self._base.whole(last, self._at(last, i), len(block)) for i, block in ends]
        return torch.cat(answers).contiguous()  # a loss may well call `view`

    def _at(self, node: fx.Node, i: int) -> Any:  # noqa: ANN401
        """The probes of block i at a node; None where they have the base's value."""
        return self._probes.get(node, {}).get(i)

    def _visit(self, node: fx.Node, started: set[int]) -> None:
        probes: dict[int, Any] = self._early.pop(node, {})
        arrived = {i for source in node.all_input_nodes for i in self._probes.get(source, ())}
        for i in sorted(arrived):
            if not self._crossed(node, i):
                probes[i] = self._run(node, i)
        for i, change in self._changes.get(self._rules[node].layer, ()):
            started.add(i)
            value = self._join(node, i, change, probes.get(i))
            if value is not None:
                probes[i] = value
        if probes:
            self._probes[node] = probes

    def _join(self, node: fx.Node, i: int, change: LayerChange, answer: Any) -> Any:  # noqa: ANN401
        """Let a layer's own probes differ from here on; None: from a later node on."""
        base, source, k = self._base, node.all_input_nodes[0], len(self._blocks[i])
        x, y, before = base.values[source], base.values[node], self._at(source, i)
        if before is None and answer is None and change.channels_first(y):
            return self._start(node, i, change, x, y)
        probes = x[None] if before is None else base.whole(source, before, k)
        whole = base.whole(node, answer, k).view(k, *y.shape)
        change.add(probes.view(-1, *x.shape).expand(k, *x.shape), whole)
        return whole.flatten(0, 1)

    def _start(
        self, node: fx.Node, i: int, change: LayerChange, x: Tensor, y: Tensor
    ) -> OneChannel | None:
        """The moved channels of a layer's output; None where a shortcut gave a later node's."""
        if y.device.type != "cpu" or y.dim() != 4:
            return OneChannel(y[:, change.channels] + change.of_base(x), change.channels)
        shortcut, layer = self._rules[node].shortcut, change.layer
        early = shortcut.start(self._base, change) if shortcut else None
        if shortcut and early:
            self._early.setdefault(shortcut.end, {})[i] = early
            return None

        def by_channel() -> tuple[Tensor, Tensor]:
            # No layer but a convolution reads its input channel by channel.
            return channel_major(pad(layer, x)) if isinstance(layer, CONVS) else x, channel_major(y)

        moved = change.moved_channels(*self._base.once(node, "by channel", by_channel))
        return OneChannel(moved, change.channels)

    def _crossed(self, node: fx.Node, i: int) -> bool:
        """Let probes of one channel take the shortcut, unless it moves their own layers."""
        shortcut, probes = self._rules[node].shortcut, self._at(node.all_input_nodes[0], i)
        if shortcut is None or not isinstance(probes, OneChannel):
            return False
        if any(i == j for layer in shortcut.layers for j, _ in self._changes.get(layer, ())):
            return False
        answer = shortcut.cross(self._base, probes)
        if answer is not None:
            self._early.setdefault(shortcut.end, {})[i] = answer
        return answer is not None

    def _run(self, node: fx.Node, i: int) -> Any:  # noqa: ANN401
        """A node's value for block i, one channel wide while it can be."""
        base, k = self._base, len(self._blocks[i])
        if is_number(base.values[node]):
            return base.number(node, k)
        probes = {s: p for s in node.all_input_nodes if (p := self._at(s, i)) is not None}
        rule = self._rules[node]
        if rule.one_channel and all(isinstance(p, OneChannel) for p in probes.values()):
            run = partial(base.call, node)
            answer = rule.one_channel(Visit(node, rule.layer, probes, base.values, run))
            if answer is not None:
                return answer
        answer = base.call(node, lambda source: base.whole(source, probes.get(source), k))
        check_batch(answer, k * base.batch)
        return answer


def is_number(value: object) -> bool:
    """Whether a value holds no tensor, as a size does."""
    inner = value if isinstance(value, list | tuple) else ()
    return not isinstance(value, Tensor) and all(map(is_number, inner))


def check_batch(value: Any, states: int) -> None:  # noqa: ANN401
    """Require every tensor of a value to hold `states` states."""

    def check(inner: Any) -> Any:  # noqa: ANN401
        if isinstance(inner, Tensor) and (inner.dim() == 0 or len(inner) != states):
            raise CannotReuseError(f"a value of shape {tuple(inner.shape)} has no batch axis")
        return inner

    map_aggregate(value, check)


def never_called(block: ProbeBlock) -> InputError:
    """A moved weight whose layer never ran is used in some other way, or not at all."""
    what, got = f"parameter {block.parameter.name!r}", "a layer that the objective never calls"
    return InputError(what, got=got, expected="weights used through their layer's forward")
