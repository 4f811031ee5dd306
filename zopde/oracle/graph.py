"""The unperturbed run of a network, which all probes of a gradient share.

A network as a torch.fx graph in which no node overwrites another's value.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from zopde.oracle.fused.moved_channel import Crossing
from zopde.oracle.fused.moved_weight import Chain, Pieces
from zopde.oracle.norms import statistics_per_probe
from zopde.oracle.per_channel import in_planes
from zopde.oracle.rank_one import CONVS, pad

log = logging.getLogger(__name__)

_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_MARK = "inplace"
_VIEWS = {"view", "reshape", "flatten", "getitem", "transpose", "permute", "squeeze", "unsqueeze"}
_VIEWS |= {"chunk", "split", "narrow", "expand", "detach", "unflatten", "movedim", "unbind"}


def trace(network: nn.Module, args: tuple[Any, ...] | None = None) -> fx.GraphModule | None:
    """The network's graph, or None where torch.fx cannot follow its forward.

    Args:
        network: The module.
        args: A call that the graph is for: what is no tensor there (a forcing of None), and
            what is left to its default, is fixed, since code branches on it. None: a call with
            a tensor for every argument.
    """
    fixed: dict[str, Any] = {}
    if args is not None:
        for i, parameter in enumerate(signature(network.forward).parameters.values()):
            value = args[i] if i < len(args) else parameter.default
            if not isinstance(value, Tensor) and value is not parameter.empty:
                fixed[parameter.name] = value
    try:
        graph = fx.symbolic_trace(network, concrete_args=fixed or None)
    except Exception as error:  # user code may raise anything under tracing
        log.debug("no feature reuse, the network cannot be traced: %s", error)
        return None
    if not all(_made_pure(node, graph) for node in list(graph.graph.nodes)):
        log.debug("no feature reuse, a value is overwritten and read again")
        return None
    for node in list(graph.graph.nodes):
        _pool_before_relu(node, graph)
    return graph


@contextmanager
def out_of_place(network: nn.Module) -> Iterator[None]:
    """Inside this context modules made with `inplace=True` leave their input alone."""
    changed = [part for part in network.modules() if getattr(part, _MARK, False) is True]
    for part in changed:
        setattr(part, _MARK, False)  # mypy takes a module's attributes for tensors
    try:
        yield
    finally:
        for part in changed:
            setattr(part, _MARK, True)


def name_of(node: fx.Node) -> str:
    """The plain name of the function or method that a node calls."""
    return str(getattr(node.target, "__name__", node.target))


def module_type(node: fx.Node, graph: fx.GraphModule) -> type | None:
    """The type of the module that a node calls with nothing but one state."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    return type(graph.get_submodule(str(node.target)))


def _made_pure(node: fx.Node, graph: fx.GraphModule) -> bool:
    """Turn a node that overwrites its input into one that does not, where that is the same."""
    if not _overwrites(node, graph):
        return True
    if node.op == "call_function" and node.target in _OUT_OF_PLACE:
        node.target = _OUT_OF_PLACE[node.target]
    elif node.op == "call_method":
        node.target = str(node.target).rstrip("_")
    elif node.op == "call_function" and "inplace" in node.kwargs:
        node.update_kwarg("inplace", False)
    elif node.op != "call_module":
        return False
    return not _read_later(node)


def _pool_before_relu(node: fx.Node, graph: fx.GraphModule) -> None:
    """Let relu(max) take the place of max(relu): the same numbers, of fewer entries."""
    users = list(node.users)
    if module_type(node, graph) is not nn.ReLU or len(users) != 1:
        return
    pool = users[0]
    if module_type(pool, graph) is not nn.MaxPool2d or len(pool.args) != 1:
        return
    if graph.get_submodule(str(pool.target)).return_indices:
        return
    pool.replace_all_uses_with(node)
    pool.args = node.args
    node.args = (pool,)
    pool.append(node)


def _overwrites(node: fx.Node, graph: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return getattr(graph.get_submodule(str(node.target)), "inplace", False) is True
    name = name_of(node)
    if node.op == "call_method":
        return name.endswith("_") and not name.endswith("__")
    if node.op == "call_function":
        marked = name.endswith("_") and not name.endswith("__")
        changes = node.target in _OUT_OF_PLACE or marked or name == "setitem"
        return changes or node.kwargs.get("inplace") is True or "out" in node.kwargs
    return False


def _read_later(node: fx.Node) -> bool:
    """Whether anybody after `node` reads the value that it would have overwritten."""
    order = {other: i for i, other in enumerate(node.graph.nodes)}
    value = node.args[0] if node.args else next(iter(node.kwargs.values()))
    while isinstance(value, fx.Node):
        if any(order[user] > order[node] for user in value.users):
            return True
        # A view shares its memory with what it was made from.
        value = value.args[0] if name_of(value) in _VIEWS and value.args else None
    return False


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
