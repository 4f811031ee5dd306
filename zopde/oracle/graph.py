"""A network as a torch.fx graph, made ready for probes: whatever can be known before any moves.

In the graph no node overwrites another's value. For every node it is settled by which rule probes
pass it, and for every parameter whether its probes can share a batch with others.
"""

from __future__ import annotations

import copy
import logging
import operator
from operator import attrgetter
from typing import Any

from torch import fx, nn

from zopde.oracle import norms
from zopde.oracle.coordinates import CHANGES, Use
from zopde.oracle.fused import shortcut
from zopde.oracle.norms import INSTANCE, NORMS
from zopde.oracle.one_channel import FUNCTIONS, LAYERS, MEETINGS, Rule
from zopde.oracle.reuse import NodeRule
from zopde.oracle.state import fixed_arguments, same_streams, set_streams, streams, unchanged

log = logging.getLogger(__name__)

_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_VIEWS = {"view", "reshape", "flatten", "getitem", "transpose", "permute", "squeeze", "unsqueeze"}
_VIEWS |= {"chunk", "split", "narrow", "expand", "detach", "unflatten", "movedim", "unbind"}
_RULES: dict[type[nn.Module], Rule] = {**LAYERS, **norms.RULES}


def trace(network: nn.Module, args: tuple[Any, ...] | None = None) -> fx.GraphModule | None:
    """The network's graph, or None where torch.fx cannot follow its forward.

    Args:
        network: The module.
        args: A call that the graph is for: what is no tensor there (a forcing of None), and
            what is left to its default, is fixed, since code branches on it. None: a call with
            a tensor for every argument.
    """
    before = streams()
    try:
        with unchanged(network):  # tracing runs the code
            graph = fx.symbolic_trace(network, concrete_args=fixed_arguments(network, args))
    except Exception as error:  # user code may raise anything under tracing
        log.debug("no feature reuse, the network cannot be traced: %s", error)
        return None
    finally:
        drawn = not same_streams(before, streams())
        set_streams(before)
    if drawn:
        log.debug("no feature reuse, a random number would stay in the graph")
        return None
    if not all(_made_pure(node, graph) for node in list(graph.graph.nodes)):
        log.debug("no feature reuse, a value is overwritten and read again")
        return None
    for node in list(graph.graph.nodes):
        _pool_before_relu(node, graph)
    return graph


def node_rules(graph: fx.GraphModule) -> dict[fx.Node, NodeRule]:
    """How probes pass every node, in the order in which they run."""
    return {
        node: NodeRule(
            layer := _layer(node, graph), _one_channel_rule(node, layer), shortcut(node, graph)
        )
        for node in graph.graph.nodes
    }


def rank_one_uses(network: nn.Module) -> dict[str, list[Use]]:
    """Where each parameter acts, for those whose every use has a rank-one rule.

    A layer that draws random numbers (Dropout in train mode), writes its own statistics, or
    couples the states of a batch in a way not known here makes stacked probes wrong, so a
    network with one has no such parameters at all until it is in eval mode. BatchNorm in train
    mode is known: `statistics_per_probe`. Nor has a weight that the network's code also reads
    outside its layer.
    """
    if any(_forbids_stacking(layer) for layer in network.modules()):
        return {}
    uses: dict[int, list[Use]] = {}
    unknown: set[int] = set()
    for layer in network.modules():
        for role, parameter in layer.named_parameters(recurse=False):
            rule = CHANGES.get((type(layer), role))
            if rule is None or parameter.is_complex() or "forward" in vars(layer):
                unknown.add(id(parameter))
            else:
                uses.setdefault(id(parameter), []).append(Use(layer, rule))
    for graph in (trace(network), trace(network, ())) if uses else ():
        # What the code reads itself, as in `F.linear(x, self.layer.weight)`.
        reads = [str(n.target) for n in graph.graph.nodes if n.op == "get_attr"] if graph else []
        unknown.update(id(attrgetter(name)(graph)) for name in reads)
    named = ((name, id(parameter)) for name, parameter in network.named_parameters())
    return {name: uses[key] for name, key in named if key not in unknown}


def _forbids_stacking(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.batchnorm._NormBase) and type(layer) not in NORMS:
        return layer.training or layer.running_mean is None
    if isinstance(layer, INSTANCE):
        return layer.training and layer.track_running_stats
    return isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training and layer.p > 0


def _layer(node: fx.Node, graph: fx.GraphModule) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def _layer_of_one_state(node: fx.Node, graph: fx.GraphModule) -> nn.Module | None:
    return None if len(node.args) != 1 or node.kwargs else _layer(node, graph)


def _name(node: fx.Node) -> str:
    """The plain name of the function or method that a node calls."""
    return str(getattr(node.target, "__name__", node.target))


def _one_channel_rule(node: fx.Node, layer: nn.Module | None) -> Rule | None:
    if layer is not None:
        return _RULES.get(type(layer))
    alone = node.args[:1] == tuple(node.all_input_nodes)
    return MEETINGS.get(_name(node)) or (FUNCTIONS.get(_name(node)) if alone else None)


def _made_pure(node: fx.Node, graph: fx.GraphModule) -> bool:
    """Turn a node that overwrites its input into one that does not, where that is the same."""
    name, layer = _name(node), _layer(node, graph)
    marked = name.endswith("_") and not name.endswith("__")
    if getattr(layer, "inplace", False) is True:
        # The graph's own copy: the network's module stays as it is.
        module: Any = copy.copy(layer)
        module.inplace = False
        node.target = f"_out_of_place_{node.name}"
        graph.add_submodule(node.target, module)
    elif node.op == "call_method" and marked:
        node.target = name.rstrip("_")
    elif node.op == "call_function" and node.target in _OUT_OF_PLACE:
        node.target = _OUT_OF_PLACE[node.target]
    elif node.op == "call_function" and node.kwargs.get("inplace") is True:
        node.update_kwarg("inplace", False)
    else:
        changes = marked or name == "setitem" or "out" in node.kwargs
        return node.op != "call_function" or not changes
    return not _read_later(node)


def _read_later(node: fx.Node) -> bool:
    """Whether anybody after `node` reads the value that it would have overwritten."""
    order = {other: i for i, other in enumerate(node.graph.nodes)}
    value = node.args[0] if node.args else next(iter(node.kwargs.values()))
    while isinstance(value, fx.Node):
        if value.op == "get_attr" or any(order[user] > order[node] for user in value.users):
            return True  # a buffer may be read by another node, which is not a user of this one
        # A view shares its memory with what it was made from.
        value = value.args[0] if _name(value) in _VIEWS and value.args else None
    return False


def _pool_before_relu(node: fx.Node, graph: fx.GraphModule) -> None:
    """Let relu(max) take the place of max(relu): the same numbers, of fewer entries."""
    relu, users = _layer_of_one_state(node, graph), list(node.users)
    if type(relu) is not nn.ReLU or len(users) != 1:
        return
    (pool,) = users
    module = _layer_of_one_state(pool, graph)
    if type(module) is not nn.MaxPool2d or module.return_indices:
        return
    pool.replace_all_uses_with(node)
    pool.args = node.args
    node.args = (pool,)
    pool.append(node)
