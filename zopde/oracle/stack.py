"""A network whose batch axis holds many probes.

Coordinate probes of a module, side by side in one forward.

A moved weight is a rank-one change of its layer's output (`zopde.oracle.rank_one`). So a stacked
batch of probes passes every layer once, with the common weights, and each layer then adds its
own probes' share. No weight is copied and no convolution is grouped by probe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from operator import attrgetter
from typing import Any, final

from torch import Tensor, fx, nn

from zopde.contracts import Network, repeat_states
from zopde.errors import InputError
from zopde.oracle.graph import Base, CannotReuseError, base_run, trace
from zopde.oracle.norms import NORMS, statistics_per_probe, updates_statistics
from zopde.oracle.rank_one import Block, Share, Site, never_called, rule_for, share
from zopde.oracle.reuse import Reuse


def rank_one_sites(module: nn.Module) -> dict[str, list[Site]]:
    """Where each parameter acts, for those whose every use has a rank-one rule.

    A layer that draws random numbers (Dropout in train mode), writes its own statistics, or
    couples the states of a batch in a way not known here makes stacked probes wrong, so a
    network with one has no sites at all until it is in eval mode. BatchNorm in train mode is
    known: `statistics_per_probe`.
    """
    if any(_forbids_stacking(part) for part in module.modules()):
        return {}
    uses: dict[int, list[Site]] = {}
    for part in module.modules():
        for role, parameter in part.named_parameters(recurse=False):
            uses.setdefault(id(parameter), []).append(Site(part, role))
    return {
        name: uses[id(parameter)]
        for name, parameter in module.named_parameters()
        if all(rule_for(site) for site in uses[id(parameter)])
    }


@contextmanager
def stacked(
    network: nn.Module, sites: dict[str, list[Site]], blocks: list[Block], num_probes: int
) -> Iterator[None]:
    """Inside this context the network's batch axis holds `num_probes` probes, probe-major.

    Raises:
        InputError: On leaving, if a moved parameter's layer was never called.
    """
    called: set[str] = set()
    with ExitStack() as stack, statistics_per_probe(network, lambda x: len(x) // num_probes):
        for block in blocks:
            for site in sites[block.slot.name]:
                hook = _hook(share(site, block), block, num_probes, called)
                stack.callback(site.module.register_forward_hook(hook).remove)
        yield
    for block in blocks:
        if block.slot.name not in called:
            raise never_called(block)


def _forbids_stacking(part: nn.Module) -> bool:
    if isinstance(part, nn.modules.batchnorm._NormBase) and type(part) not in NORMS:
        return part.training or part.running_mean is None
    random = isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0
    return random or updates_statistics(part)


def _hook(
    change: Share, block: Block, num_probes: int, called: set[str]
) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        called.add(block.slot.name)
        change.add(_probes(args[0], block, num_probes), _probes(output, block, num_probes))

    return hook


def _probes(stacked_batch: Tensor, block: Block, num_probes: int) -> Tensor:
    """The block's part of a stacked batch, as a view (k, batch, ...)."""
    if len(stacked_batch) % num_probes:
        raise InputError(
            f"batch axis at {block.slot.name!r}",
            got=len(stacked_batch),
            expected=f"a multiple of the {num_probes} probes, as the first axis",
        )
    apart = stacked_batch.view(num_probes, -1, *stacked_batch.shape[1:])
    return apart[block.first : block.first + len(block)]


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
        reuse: False lets every pass go through the whole network.

    Attributes:
        sites: Parameter name -> the places where it acts, for those that can be stacked.
    """

    def __init__(self, network: nn.Module, sites: dict[str, list[Site]], reuse: bool) -> None:
        self._network = network
        self._reuse = reuse
        self._graphs: dict[tuple[Any, ...], fx.GraphModule | None] = {}
        self._base: Base | None = None
        graphs = (trace(network), trace(network, ())) if sites else ()
        loose = {id(tensor) for graph in graphs for tensor in _read_outside_layers(graph)}
        self.sites = {
            name: places
            for name, places in sites.items()
            if id(network.get_parameter(name)) not in loose
        }

    @contextmanager
    def at_these_weights(self) -> Iterator[None]:
        """Inside this context the weights stay as they are, so passes share one base run."""
        try:
            yield
        finally:
            self._base = None

    @contextmanager
    def probing(self, blocks: list[Block]) -> Iterator[Network]:
        """A network for one pass; call it only inside this context."""
        yield _Pass(self, blocks)

    def whole(self, blocks: list[Block], num_probes: int, args: tuple[Any, ...]) -> Tensor:
        """The answer to a stacked call, (num_probes * batch, ...): every state, every layer."""
        with stacked(self._network, self.sites, blocks, num_probes):
            answer: Tensor = self._network(*args)
        return answer

    def reused(self, blocks: list[Block], args: tuple[Any, ...]) -> Tensor | None:
        """The answer where all probes have the states (batch, ...); None if it is not known."""
        args = self._with_defaults(args)
        kind = _kind(args)
        if not self._reuse or not any(isinstance(value, Tensor) for value in args):
            return None
        if kind not in self._graphs:
            self._graphs[kind] = trace(self._network, args)
        graph = self._graphs[kind]
        if graph is None:
            return None
        try:
            if self._base is None or not self._base.answers(args):
                self._base = None  # the old run's memory goes first
                self._base = base_run(graph, args)
            return Reuse(self._base, graph, self.sites, blocks).answer()
        except CannotReuseError as reason:
            log.debug("no feature reuse: %s", reason)
            self._graphs[kind] = None
            return None

    def _with_defaults(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        call = signature(self._network.forward).bind(*args)
        call.apply_defaults()
        return call.args


@final
class _Pass:
    """The network of one pass of probes."""

    def __init__(self, stack: Stack, blocks: list[Block]) -> None:
        self._stack = stack
        self._blocks = blocks
        self._num_probes = sum(len(block) for block in blocks)

    def __call__(self, *args: Any) -> Tensor:  # noqa: ANN401
        """Stacked states (num_probes * batch, ...), probe-major, to stacked answers."""
        if _same_for_all(args, self._num_probes):
            first = [v[: len(v) // self._num_probes] if isinstance(v, Tensor) else v for v in args]
            answer = self._stack.reused(self._blocks, tuple(first))
            if answer is not None:
                return answer
        return self._stack.whole(self._blocks, self._num_probes, args)

    def shared(self, *args: Any) -> Tensor:  # noqa: ANN401
        """States (batch, ...) that all probes have in common, to stacked answers."""
        answer = self._stack.reused(self._blocks, args)
        if answer is not None:
            return answer
        repeated = tuple(repeat_states(value, self._num_probes) for value in args)
        return self._stack.whole(self._blocks, self._num_probes, repeated)


def _kind(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a graph depends on: the arguments that are no tensors."""
    return tuple(Tensor if isinstance(value, Tensor) else value for value in args)


def _same_for_all(args: tuple[Any, ...], num_probes: int) -> bool:
    """Whether every tensor of a stacked call repeats the same states for every probe."""

    def repeats(value: Tensor) -> bool:
        if len(value) % num_probes:
            return False
        apart = value.view(num_probes, -1, *value.shape[1:])
        # The last probe alone rules most cases out.
        same = bool((apart[-1] == apart[0]).all())
        return same and bool((apart == apart[:1]).all())

    tensors = [value for value in args if isinstance(value, Tensor)]
    return num_probes > 1 and bool(tensors) and all(repeats(value) for value in tensors)


def _read_outside_layers(graph: fx.GraphModule | None) -> list[Tensor]:
    """The tensors that the code reads itself, as in `F.linear(x, self.layer.weight)`."""
    if graph is None:
        return []
    reads = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    return [attrgetter(name)(graph) for name in reads]
