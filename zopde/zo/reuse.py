"""Feature reuse: where all probes see the same input, a probe's work starts at its own layer.

    f_theta(x) = f_{theta >= l}(z_l),   z_l the unperturbed activations before layer l

(Chen et al., ICLR 2024, section 4.) The network runs once, node by node of its torch.fx graph.
Every value holds the unperturbed states first, then those of the probes that have joined so
far; the probes of a layer join at that layer, starting from the unperturbed value. Branches and
skips come out right by themselves: where two values meet, the one with fewer probes is
completed with unperturbed states, which is what those probes would have computed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from inspect import signature
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from zopde.zo.norms import statistics_per_probe
from zopde.zo.probes import Block, Share, Site, never_called, share

log = logging.getLogger(__name__)


class CannotReuseError(Exception):
    """The graph does something with the batch axis that reuse cannot follow."""


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
        return fx.symbolic_trace(network, concrete_args=fixed or None)
    except Exception as error:  # user code may raise anything under tracing
        log.debug("no feature reuse, the network cannot be traced: %s", error)
        return None


def same_for_all(args: tuple[Any, ...], num_probes: int) -> bool:
    """Whether every tensor of a stacked call repeats the same states for every probe."""

    def repeats(value: Tensor) -> bool:
        if len(value) % num_probes:
            return False
        apart = value.view(num_probes, -1, *value.shape[1:])
        # The last probe alone rules most cases out.
        return torch.equal(apart[-1], apart[0]) and bool((apart == apart[:1]).all())

    tensors = [value for value in args if isinstance(value, Tensor)]
    return num_probes > 1 and bool(tensors) and all(repeats(value) for value in tensors)


@dataclass(frozen=True)
class _Held:
    """A value on the way: (1 + probes) * batch states, the unperturbed ones first."""

    value: Tensor
    probes: int


@final
class Reuse(fx.Interpreter):
    """Runs a graph on unperturbed states and lets probes join on the way.

    Args:
        graph: From `trace`.
        sites: Parameter name -> the places where it acts.
        blocks: The probes of one pass.
        mu: How far each probe moves its weight.
    """

    def __init__(
        self, graph: fx.GraphModule, sites: dict[str, list[Site]], blocks: list[Block], mu: float
    ) -> None:
        super().__init__(graph)
        self._blocks = blocks
        self._at: dict[nn.Module, list[tuple[Block, Share]]] = {}
        for block in blocks:
            for site in sites[block.slot.name]:
                self._at.setdefault(site.module, []).append((block, share(site, block, mu)))
        self._batch = 0
        self._first_of: dict[str, int] = {}  # parameter -> number of its first joined probe
        self._joined = 0

    def answer(self, args: tuple[Any, ...], num_probes: int) -> Tensor:
        """The network's answer to a stacked call whose probes all have the same input.

        Args:
            args: As the network would get them: tensors of (num_probes * batch, ...).
            num_probes: Probes of the pass.

        Returns:
            (num_probes * batch, ...), probe-major.

        Raises:
            CannotReuseError: If a node mixes or drops states; the plain pass still can.
            InputError: If the layer of a moved weight is never called.
        """
        self._batch = next(len(v) for v in args if isinstance(v, Tensor)) // num_probes
        self._first_of, self._joined = {}, 0
        start = [_Held(v[: self._batch], 0) if isinstance(v, Tensor) else v for v in args]
        placeholders = sum(node.op == "placeholder" for node in self.graph.nodes)
        start += [None] * (placeholders - len(start))  # arguments left to their defaults
        with statistics_per_probe(self.module, lambda _: self._batch):
            held = self.run(*start)
        if not isinstance(held, _Held):
            raise CannotReuseError("the answer is not one tensor")
        order = []
        for block in self._blocks:
            if block.slot.name not in self._first_of:
                raise never_called(block)
            first = 1 + self._first_of[block.slot.name]
            order.append(torch.arange(first, first + len(block.positions)))
        rows = self._complete(held, self._joined)
        apart = rows.view(-1, self._batch, *rows.shape[1:])
        return apart[torch.cat(order)].flatten(0, 1)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - fx's own signature
        """Run one node on values completed to the same probes."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op in ("placeholder", "get_attr", "output"):
            return getattr(self, n.op)(n.target, args, kwargs)
        held: list[_Held] = []
        map_aggregate((args, kwargs), lambda a: held.append(a) if isinstance(a, _Held) else None)
        if not held:
            return getattr(self, n.op)(n.target, args, kwargs)
        most = max(value.probes for value in held)

        def plain(value: Any) -> Any:  # noqa: ANN401
            return self._complete(value, most) if isinstance(value, _Held) else value

        full_args, full_kwargs = map_aggregate((args, kwargs), plain)
        found = getattr(self, n.op)(n.target, full_args, full_kwargs)
        if n.op == "call_module" and self.fetch_attr(str(n.target)) in self._at:
            return self._join(self.fetch_attr(str(n.target)), full_args[0], found, most)
        return map_aggregate(found, lambda v: self._hold(v, most))

    def _join(self, module: nn.Module, x: Tensor, y: Tensor, probes: int) -> _Held:
        """Let the module's own probes join, and give each its share of the output."""
        for block, _ in self._at[module]:
            if block.slot.name not in self._first_of:
                self._first_of[block.slot.name] = self._joined
                self._joined += len(block.positions)
        x = self._complete(_Held(x, probes), self._joined)
        y = self._complete(self._hold(y, probes), self._joined)
        for block, add_share in self._at[module]:
            first = 1 + self._first_of[block.slot.name]
            rows = slice(first, first + len(block.positions))
            add_share(
                x.view(-1, self._batch, *x.shape[1:])[rows],
                y.view(-1, self._batch, *y.shape[1:])[rows],
            )
        return _Held(y, self._joined)

    def _complete(self, held: _Held, probes: int) -> Tensor:
        """The value with unperturbed states for the probes that joined since."""
        missing = probes - held.probes
        if not missing:
            return held.value
        base = held.value[: self._batch]
        return torch.cat([held.value, base.repeat(missing, *[1] * (base.dim() - 1))])

    def _hold(self, value: Any, probes: int) -> Any:  # noqa: ANN401
        if not isinstance(value, Tensor):
            return value
        if value.dim() == 0 or len(value) != (1 + probes) * self._batch:
            raise CannotReuseError(f"a value of shape {tuple(value.shape)} has no batch axis")
        return _Held(value, probes)
