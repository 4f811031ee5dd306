"""What a query works on and must not change: weights, buffers, attributes, random streams."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

Streams = list[Tensor]
"""The state of torch's global streams, the CPU's first."""


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """Inside this context a network works on copies of its buffers and tensors.

    Afterwards it has its own again, with all its attributes, whatever wrote to them or put others
    in their place. (What a list or a dictionary of its own holds is not looked at.)
    """
    copies: dict[int, Tensor] = {}
    scripted, before = list[tuple[Tensor, Tensor]](), list[tuple[nn.Module, dict[str, Any], Any]]()

    def copied(values: dict[str, Any]) -> dict[str, Tensor]:
        found = {n: v for n, v in values.items() if type(v) is Tensor}
        for value in found.values():
            if id(value) not in copies:
                copies[id(value)] = value.clone()
        return {name: copies[id(value)] for name, value in found.items()}

    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):  # its buffers are not to be replaced
            scripted += [(b, b.clone()) for b in module.buffers(recurse=False)]
            continue
        before.append((module, dict(vars(module)), dict(module._buffers)))
        module._buffers.update(copied(module._buffers))
        vars(module).update(copied(vars(module)))
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
        """The answer of TorchScript, whose parameters take other values for a moment."""
        moved = [(attrgetter(name)(self._network), value) for name, value in tensors.items()]
        before = [(parameter, parameter.data) for parameter, _ in moved]
        try:
            for parameter, value in moved:
                parameter.data = value
            return self._network(*args, **named)  # type: ignore[no-any-return]
        finally:
            for parameter, value in before:
                parameter.data = value


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
