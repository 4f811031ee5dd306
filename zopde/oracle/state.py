"""What a query works on and must not change: weights, buffers, attributes, random streams."""

from __future__ import annotations

import copy
import itertools
import logging
import re
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from operator import attrgetter
from random import Random
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

log = logging.getLogger(__name__)

_WHOLE = (set, bytearray, Random, torch.Generator, type(itertools.count()))

_RARELY = 64  # gradients between two comparisons, in the end

Streams = list[Tensor]
"""The state of torch's global streams, the CPU's first."""


_MODULE = frozenset(vars(nn.Module()))  # what torch keeps in every module: no forward writes it


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """Inside this context a network works on copies of what its forward may write to.

    Those are buffers, tensors, lists, dictionaries, sets, arrays and random generators, one inside
    another, too. Afterwards it has its own again, with all its attributes, whatever wrote to
    them or put others in their place. (An object of a class of the user's is not looked at.)
    """
    memo: dict[int, Any] = {}
    scripted, before = list[tuple[Tensor, Tensor]](), list[tuple[nn.Module, dict[str, Any], Any]]()
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):  # its buffers are not to be replaced
            scripted += [(b, b.clone()) for b in module.buffers(recurse=False)]
            continue
        own = vars(module)
        before.append((module, dict(own), dict(module._buffers)))
        if module._buffers:
            module._buffers.update({n: _copied(v, memo) for n, v in module._buffers.items()})
        written = {n: v for n, v in own.items() if _is_plain(v)}
        if not type(module).__module__.startswith("torch.nn."):  # those write tensors alone
            written |= {n: own[n] for n in own.keys() - _MODULE}
        own.update({n: _copied(v, memo) for n, v in written.items()})
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, value in scripted:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _is_plain(value: object) -> bool:
    """Whether it is a tensor, of whatever class a device has, and no parameter."""
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


def _copied(value: Any, memo: dict[int, Any]) -> Any:  # noqa: ANN401
    """A copy of what can be written to; parameters, modules and all else are the same objects.

    What stands in two places is copied once; `memo` knows the copies by the id of the original.
    """
    if id(value) in memo:
        return memo[id(value)]
    copied = value
    if _is_plain(value):
        copied = value.clone()
    elif isinstance(value, list | deque):
        memo[id(value)] = copied = copy.copy(value)  # it may hold itself
        for i, inner in enumerate(value):
            copied[i] = _copied(inner, memo)
    elif isinstance(value, dict):
        memo[id(value)] = copied = copy.copy(value)
        for key, inner in value.items():
            copied[key] = _copied(inner, memo)
    elif type(value) is tuple and value:
        copied = tuple(_copied(inner, memo) for inner in value)
    elif isinstance(value, _WHOLE) or type(value).__module__.startswith("numpy"):
        copied = copy.deepcopy(value)
    memo[id(value)] = copied
    return copied


@contextmanager
def holding(values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Inside this context parameters have other values, wherever they are read."""
    before = [(parameter, parameter.data) for parameter in values]
    try:
        for parameter, value in values.items():
            parameter.data = value
        yield
    finally:
        for parameter, value in before:
            parameter.data = value


@final
class Replaced:
    """Calls a network with other parameters or buffers, in every place where each one acts.

    `torch.func.functional_call` finds tied tensors by itself, but leaves a module that the
    network holds under two names with the replaced ones. So every place is named here, once
    per module and not once per path to it. The network has its own tensors again after every call.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._scripted = any(isinstance(m, torch.jit.ScriptModule) for m in network.modules())
        names_of: dict[int, list[str]] = {}
        for path, module in network.named_modules():
            named = module.named_parameters(recurse=False, remove_duplicate=False)
            own = {**dict(named), **module._buffers}
            for role, tensor in own.items():
                if tensor is not None:
                    names_of.setdefault(id(tensor), []).append(f"{path}.{role}" if path else role)
        self._all_names = {names[0]: names for names in names_of.values()}

    def __call__(self, tensors: dict[str, Tensor], *args: Any, **named: Any) -> Tensor:  # noqa: ANN401
        """The network's answer with tensors by name, as `named_parameters` has it."""
        if self._scripted:
            return self._in_place(tensors, *args, **named)
        everywhere = {n: t for name, t in tensors.items() for n in self._all_names[name]}
        answer: Tensor = functional_call(self._network, everywhere, args, named, tie_weights=False)
        return answer

    def _in_place(self, tensors: dict[str, Tensor], *args: Any, **named: Any) -> Tensor:  # noqa: ANN401
        """The answer of TorchScript, which is called in no other way."""
        with holding({attrgetter(name)(self._network): t for name, t in tensors.items()}):
            return self._network(*args, **named)  # type: ignore[no-any-return]


def structure_of(network: nn.Module) -> Hashable:
    """What decides how a network's code runs: its layers, their modes and settings, its tensors."""

    def told(value: Any) -> Any:  # noqa: ANN401
        return value if isinstance(value, bool | int | float | str) else id(value)

    layers = [
        (id(module), *((n, told(v)) for n, v in vars(module).items() if not n.startswith("_")))
        for module in network.modules()
    ]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()]
    weights = [(id(p), p.dtype, p.device, p.requires_grad) for p in network.parameters()]
    return repr((layers, hooks, weights, [id(buffer) for buffer in network.buffers()]))


def fixed_arguments(network: nn.Module, args: tuple[Any, ...] | None) -> dict[str, Any] | None:
    """The arguments that tracing fixes, by name; None where there are none."""
    fixed: dict[str, Any] = {}
    if args is not None:
        for i, parameter in enumerate(signature(network.forward).parameters.values()):
            value = args[i] if i < len(args) else parameter.default
            if not isinstance(value, Tensor) and value is not parameter.empty:
                fixed[parameter.name] = value
    return fixed or None


def code_of(network: nn.Module, args: tuple[Any, ...]) -> tuple[str, str]:
    """What tracing would find now, as text, without its numbers and with them; "" for nothing.

    It may be other than before: code reads flags, counters and schedules from outside.
    """
    before = streams()
    try:
        with unchanged(network):
            nodes = fx.Tracer().trace(network, concrete_args=fixed_arguments(network, args)).nodes
            # What the code makes of a number: a tensor that it hands to the graph.
            made = [str(n.target) for n in nodes if str(n.target).startswith("_tensor_constant")]
            numbers = [getattr(network, name).tolist() for name in made]
    except Exception as error:  # user code may raise anything under tracing
        log.debug("cannot be traced any more: %s", error)
        return "", ""
    finally:
        set_streams(before)
    code = repr([(n.op, str(n.target), n.args, n.kwargs) for n in nodes])
    return re.sub(r"\d+", "", code), f"{code} {numbers}"


@final
@dataclass(frozen=True)
class Verified:
    """Says for what stacked probes were compared with the plain loop."""

    begun: int = 0  # number of the gradient at which the network became what it is
    calls: frozenset[str] = frozenset()  # of the network
    width: int = 0  # the most probes that shared a pass
    gradient: int = 0  # number of the latest gradient at which they were compared, from 1
    known: bool = True  # False where no probe moved the loss

    def why_again(self, calls: set[str], width: int, gradient: int) -> str:
        """Why to compare (again), as what it costs is counted; "" where there is no reason.

        Args:
            calls: Those of the network so far.
            width: How many probes share a pass.
            gradient: Number of the present gradient, from 1; 0 outside of gradients.
        """
        if is_due(gradient) and gradient != self.gradient:
            return f"gradient {gradient}"
        nothing_known = not self.known and gradient != self.gradient
        new = self.new(calls, nothing_known)
        return new or (f"passes of {width}" if width > self.width else "")

    def new(self, calls: set[str], every: bool = False) -> str:
        """Name the calls that were not verified, or every one; "" where there are none."""
        new = sorted(calls if every else calls - self.calls)
        since = [f"from gradient {self.begun}"] if self.begun > 1 and new else []
        return "; ".join(new + since)


def is_due(gradient: int) -> bool:
    """Whether probes are verified again at a gradient: 4, 8, 16, 32, then every 64th."""
    return gradient > 2 and (gradient & (gradient - 1) == 0 or gradient % _RARELY == 0)


@final
class Draws:
    """Common random numbers: all queries of one gradient find torch's streams in the same state.

    A network with Dropout in train mode, or one that draws noise, is then one function at all
    probes. The next gradient draws anew: the streams go on from where its first query left them.
    """

    def __init__(self) -> None:
        self.start: Streams | None = None
        self.after: Streams | None = None
        self._drawn = True

    @contextmanager
    def gradient(self, start: Streams | None = None) -> Iterator[None]:
        """Inside this context there is one gradient, or a part of the one that began at `start`."""
        if self.start is not None:  # a part of one that has begun
            yield
            return
        self.start, self.after, self._drawn = start or streams(), None, True
        try:
            yield
        finally:
            if self.drawn and same_streams(streams(), self.start):
                set_streams(self.drawn)
            self.start = None

    @property
    def drawn(self) -> Streams | None:
        """Where the first query left the streams, if it drew anything."""
        return self.after if self._drawn else None

    @contextmanager
    def query(self) -> Iterator[None]:
        """One query; outside of a gradient it draws as it comes."""
        if self.start is None or not self._drawn:
            yield
            return
        before = streams()  # somebody else may draw between two queries
        set_streams(self.start)
        try:
            yield
            if self.after is None:
                self.after = streams()
                # Reading and setting the streams takes as long as a small network.
                self._drawn = not same_streams(self.start, self.after)
        finally:
            set_streams(before)


def is_states(value: object) -> bool:
    """Whether an argument of a network has a batch axis; a number in a tensor has none."""
    return isinstance(value, Tensor) and value.dim() > 0


def streams() -> Streams:
    """The state of torch's global streams now; nobody else's: other threads may draw from them."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *devices]


def set_streams(states: Streams) -> None:
    """Put torch's global streams into a state."""
    torch.set_rng_state(states[0])
    for device, state in enumerate(states[1:]):
        torch.cuda.set_rng_state(state, device)


def same_streams(one: Streams, other: Streams) -> bool:
    """Whether two states are the same."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=False))
