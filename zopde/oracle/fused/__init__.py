"""The door to layers that probes pass several at a time: a layer, a norm and the pool behind it.

Whoever lets probes pass a network takes a `Shortcut` where `shortcut` finds one, and need not know
what lies on the way.
"""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, fx, nn

from zopde.oracle.coordinates import ConvWeightChange, LayerChange
from zopde.oracle.fused.moved_channel import Crossing
from zopde.oracle.fused.moved_weight import Subgrids, added_to_pooled, pooled
from zopde.oracle.one_channel import OneChannel, windows_apart
from zopde.oracle.reuse import BaseRun, Shortcut


def shortcut(node: fx.Node, graph: fx.GraphModule) -> Shortcut | None:
    """What takes probes from this node past those behind it; None where nothing does."""
    if node.op != "call_module":
        return None
    layer = graph.get_submodule(str(node.target))
    norm = node if isinstance(layer, nn.BatchNorm2d) else _only_module_after(node)
    pool = _only_module_after(norm) if norm else None
    if norm is None or pool is None:
        return None
    modules = (graph.get_submodule(str(n.target)) for n in (norm, pool))
    chain = ToPool(node, pool, layer, *modules)
    return chain if (type(chain.norm), type(chain.pool)) == (nn.BatchNorm2d, nn.MaxPool2d) else None


def _only_module_after(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    alone = len(users) == 1 and users[0].op == "call_module" and len(users[0].args) == 1
    return users[0] if alone else None


@final
class ToPool:
    """From a layer past a norm, which it is or which it alone feeds, to the pool that this feeds.

    Where the pool's windows overlap, everything goes the long way.
    """

    def __init__(self, node: fx.Node, end: fx.Node, layer: Any, norm: Any, pool: Any) -> None:  # noqa: ANN401 - of known types
        self._node, self.end = node, end
        self._layer, self.norm, self.pool = layer, norm, pool
        self.layers: tuple[nn.Module, ...] = layer, norm

    def start(self, base: BaseRun, change: LayerChange) -> OneChannel | None:
        """The moved channels, pooled; see `Shortcut`."""
        x, y = self._input(base), base.values[self._node]
        window = windows_apart(self.pool, y)
        if window is None:
            return None
        if isinstance(change, ConvWeightChange):
            subgrids = base.once(
                self._node, "subgrids", lambda: Subgrids(self._layer, x, y, window)
            )
            return OneChannel(pooled(subgrids, change.steps(), self.norm), change.channels)
        own = base.values[self.end].transpose(0, 1)[change.channels]
        added = added_to_pooled(own, change, self.norm)
        if added is None:
            return None
        return OneChannel(own.add_(added).transpose(0, 1), change.channels)

    def cross(self, base: BaseRun, probes: OneChannel) -> Tensor | None:
        """All channels of the probes, pooled; see `Shortcut`."""
        conv, y = self._layer, base.values[self._node]
        window = windows_apart(self.pool, y)
        if window is None or type(conv) is not nn.Conv2d or conv.groups != 1:
            return None
        crossing = base.once(self._node, "crossing", lambda: Crossing(conv, self.norm, window, y))
        return crossing(probes, self._input(base))

    def _input(self, base: BaseRun) -> Tensor:
        value: Tensor = base.values[self._node.all_input_nodes[0]]
        return value
