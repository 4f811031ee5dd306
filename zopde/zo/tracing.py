"""A network as a torch.fx graph in which no node overwrites another's value."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import Tensor, fx, nn

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
