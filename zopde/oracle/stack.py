"""Stacked calls of a network: probes side by side in one batch, each with its own moved weight."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from inspect import Parameter, signature
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from zopde.contracts import Network, repeat_states
from zopde.errors import InputError, ObjectiveError
from zopde.oracle.chunks import out_of_memory
from zopde.oracle.coordinates import LayerChange, ProbeBlock
from zopde.oracle.graph import node_rules, rank_one_uses, trace
from zopde.oracle.norms import BATCH, statistics_per_probe
from zopde.oracle.reuse import BaseRun, NodeRule, Reuse, base_run, never_called
from zopde.oracle.state import code_of, is_states, set_streams, streams

log = logging.getLogger(__name__)

Rules = dict[fx.Node, NodeRule]


@final
class Stack:
    """Answers stacked calls of a network, by the cheapest way that gives the same numbers.

    Where all probes come with the same input (the first step of an unrolled loss; every call
    of a classifier) work is shared up to the layer that a probe moves, see `Reuse`; otherwise
    the whole stacked batch passes every layer. The calls that come are noted in `seen`. `stacked`
    False lets no probes share a batch, `reuse` False every pass go through the whole network.
    """

    def __init__(self, network: nn.Module, stacked: bool, reuse: bool, seen: set[str]) -> None:
        self._network, self.seen = network, seen
        every = [{**m._forward_hooks, **m._forward_pre_hooks} for m in network.modules()]
        names = [type(hook).__module__ for hooks in every for hook in hooks.values()]
        # Hooks meet values that reuse does not make; torch's own (pruning) make weights alone.
        self._reuse = reuse and all(name.startswith("torch.nn.utils.") for name in names)
        # Parameter name -> the places where it acts, for those that can be stacked.
        self.uses = rank_one_uses(network) if stacked else {}
        self._batch_norms = [m for m in network.modules() if isinstance(m, BATCH)]
        # By what is no tensor in a call: the graph, with how probes pass its nodes.
        self._graphs: dict[tuple[Any, ...], tuple[fx.GraphModule, Rules] | None] = {}
        self._codes: dict[tuple[Any, ...], tuple[str, str]] = {}  # what was traced, as text
        self._base: BaseRun | None = None
        self.widest = 0  # the most probes that a pass has held

    @contextmanager
    def at_these_weights(self) -> Iterator[None]:
        """Inside this context the weights stay as they are, so passes share one base run."""
        try:
            yield
        finally:
            self._base = None

    def renew(self) -> bool:
        """Forget graphs of code that runs otherwise by now; whether more than numbers changed."""
        other = False
        for kind, code in [*self._codes.items()]:
            values = tuple(torch.empty(1) if value is Tensor else value for value in kind)
            if self._graphs[kind] and (now := code_of(self._network, values)) != code:
                other |= now[0] != code[0]
                del self._graphs[kind], self._codes[kind]
        return other

    def whole(
        self, blocks: list[ProbeBlock], num_probes: int, args: Sequence[Any], named: dict[str, Any]
    ) -> Tensor:
        """The answer to a stacked call, (num_probes * batch, ...): every state, every layer.

        Raises:
            InputError: If a moved parameter's layer is never called.
        """
        called: set[str] = set()
        with ExitStack() as stack, self._statistics(lambda x: len(x) // num_probes):
            for block in blocks:
                for use in self.uses[block.parameter.name]:
                    hook = _hook(use.change(block), num_probes, called)
                    # First of all hooks: those of others meet what the moved weight gives.
                    handle = use.layer.register_forward_hook(hook, prepend=True, with_kwargs=True)
                    stack.callback(handle.remove)
            answer: Tensor = self._network(*args, **named)
        for block in blocks:
            if block.parameter.name not in called:
                raise never_called(block)
        return answer

    def reused(
        self, blocks: list[ProbeBlock], args: Sequence[Any], named: dict[str, Any]
    ) -> Tensor | None:
        """The answer where all probes have the states (batch, ...); None if it is not known."""
        values = self._in_order(args, named) if self._reuse else ()
        if not any(map(is_states, values)):
            return None
        kind = tuple(Tensor if isinstance(value, Tensor) else value for value in values)
        before = streams() if self._base is None else None
        try:
            if kind not in self._graphs:
                graph = trace(self._network, values)
                self._graphs[kind] = None if graph is None else (graph, node_rules(graph))
                self._codes[kind] = code_of(self._network, values)
            traced = self._graphs[kind]
            return None if traced is None else self._by_graph(*traced, blocks, values)
        except Exception as reason:  # user code, run node by node, may raise anything
            if out_of_memory(reason):
                raise
            log.debug("no feature reuse: %s", reason)
            if before:  # the same pass begins again
                set_streams(before)
            with suppress(TypeError):  # not all that a call brings can be looked up
                self._graphs[kind] = None
            return None

    def _by_graph(
        self, graph: fx.GraphModule, rules: Rules, blocks: list[ProbeBlock], values: tuple[Any, ...]
    ) -> Tensor | None:
        layers = {id(rule.layer) for rule in rules.values()}
        uses = [use for block in blocks for use in self.uses[block.parameter.name]]
        if not all(id(use.layer) in layers for use in uses):
            return None  # one is inside a layer that torch.fx takes as a whole
        batch = next(len(value) for value in values if is_states(value))
        with self._statistics(lambda _: batch):
            if self._base is None or not self._base.answers(values):
                self._base = None  # the old run's memory goes first
                self._base = base_run(graph, values)
            return Reuse(self._base, rules, self.uses, blocks).answer()

    def _in_order(self, args: Sequence[Any], named: dict[str, Any]) -> tuple[Any, ...]:
        """The values of a call, one for each argument of `forward`; none where it takes any."""
        try:
            call = signature(self._network.forward).bind(*args, **named)
        except (TypeError, ValueError):
            return ()
        kinds = {parameter.kind for parameter in call.signature.parameters.values()}
        if kinds & {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}:
            return ()
        call.apply_defaults()
        return tuple(call.arguments.values())

    def _statistics(self, states_of: Callable[[Tensor], int]) -> AbstractContextManager[None]:
        """Every BatchNorm normalises each probe on its own; most networks here have none."""
        norms = self._batch_norms
        return statistics_per_probe(norms, states_of) if norms else nullcontext()


def _hook(
    change: LayerChange, num_probes: int, called: set[str]
) -> Callable[[nn.Module, Sequence[Any], dict[str, Any], Tensor], None]:
    """After a layer's call: add what its own probes change."""
    block, name = change.block, change.block.parameter.name

    def own(batch: Tensor) -> Tensor:
        """The block's part of a stacked batch, as a view (k, batch, ...)."""
        if len(batch) % num_probes:
            expected = f"a multiple of the {num_probes} probes, as the first axis"
            raise InputError(f"batch axis at {name!r}", got=len(batch), expected=expected)
        by_probe = batch.view(num_probes, -1, *batch.shape[1:])
        return by_probe[block.first : block.first + len(block)]

    def hook(_: nn.Module, args: Sequence[Any], named: dict[str, Any], output: Tensor) -> None:
        called.add(name)
        change.add(own([*args, *named.values()][0]), own(output))

    return hook


@final
class StackedPass:
    """The network that an objective gets for one pass; see `zopde.contracts.ask_shared`."""

    def __init__(self, stack: Stack, blocks: list[ProbeBlock]) -> None:
        self._stack, self._blocks = stack, blocks
        self._num_probes = sum(map(len, blocks))
        stack.widest = max(stack.widest, self._num_probes)

    def __call__(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401
        """Stacked states (num_probes * batch, ...), probe-major, to stacked answers."""
        k, stack = self._num_probes, self._stack

        def first(value: Any) -> Any:  # noqa: ANN401
            return value[: len(value) // k] if is_states(value) else value

        common = [first(v) for v in args], {name: first(v) for name, v in named.items()}
        stack.seen.add(shapes_of(*common))
        states = [value for value in (*args, *named.values()) if is_states(value)]
        if k > 1 and states and all(repeats(value, k) for value in states):
            answer = stack.reused(self._blocks, *common)
            if answer is not None:
                return answer
        return stack.whole(self._blocks, k, args, named)

    def shared(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401
        """States (batch, ...) that all probes have in common, to stacked answers."""
        self._stack.seen.add(shapes_of(args, named))
        answer = self._stack.reused(self._blocks, args, named)
        if answer is not None:
            return answer
        repeated = [repeat_states(value, self._num_probes) for value in args]
        others = {name: repeat_states(value, self._num_probes) for name, value in named.items()}
        return self._stack.whole(self._blocks, self._num_probes, repeated, others)


class NoModuleError(ObjectiveError, AttributeError):
    """The objective takes what it is given for the network itself; `hasattr` says False."""


@final
class Given:
    """Calls the network with the weights of its probes, and notes that it was called.

    It is no module: what an objective would read or set there is not that of the probes.
    """

    def __init__(self, network: nn.Module, ask: Network) -> None:
        self.called = False
        self._network, self._ask = network, ask
        self._shared: Callable[..., Tensor] = getattr(ask, "shared", ask)

    def __call__(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401 - as the network takes them
        """Stacked states to stacked answers."""
        self._note([*args, *named.values()])
        return self._ask(*args, **named)

    def shared(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401
        """States that all probes have in common, see `zopde.contracts.ask_shared`."""
        self._note([*args, *named.values()])
        return self._shared(*args, **named)

    def _note(self, values: Sequence[Any]) -> None:
        self.called = True
        first = next((v for v in values if is_states(v)), None)
        if first is not None and not len(first):
            got, expected = f"no states: shape {tuple(first.shape)}", "one state at least"
            raise ObjectiveError("network input", got=got, expected=expected)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("_") or not hasattr(self._network, name):
            raise AttributeError(name)
        got = f"{name!r} read from what it is given as the network"
        expected = "calls of it: it is a function that holds the weights of the probes, no module"
        remedy = "set modes on the network itself, before; a penalty on weights is `weight_decay`"
        raise NoModuleError("objective", got=got, expected=expected, remedy=remedy)


def unused(how: str) -> ObjectiveError:
    """An objective whose losses do not come from the network that it is given."""
    expected = "losses of the network that it is given as its first argument"
    remedy = "call that argument in the objective, not a network from outside"
    return ObjectiveError("objective", got=how, expected=expected, remedy=remedy)


def shapes_of(args: Sequence[Any], named: dict[str, Any]) -> str:
    """What a call of one probe brings: shapes and types."""

    def told(value: Any) -> str:  # noqa: ANN401
        tensor = isinstance(value, Tensor)
        return f"{tuple(value.shape)} {value.dtype}" if tensor else type(value).__name__

    return ", ".join([*map(told, args), *(f"{name}={told(v)}" for name, v in named.items())])


def repeats(value: Tensor, num_probes: int) -> bool:
    """Whether a tensor repeats the same states for every probe."""
    if len(value) % num_probes:
        return False
    by_probe = value.view(num_probes, -1, *value.shape[1:])
    # The last probe alone rules most cases out.
    return bool((by_probe[-1] == by_probe[0]).all()) and bool((by_probe == by_probe[:1]).all())
