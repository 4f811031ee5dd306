"""Probes along whole directions: every probe has weights of its own, stacked under vmap.

Calling a network with some of its tensors replaced, without touching the network.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from zopde.contracts import Objective
from zopde.errors import InputError
from zopde.oracle.coordinates import Coordinates


@final
class Replaced:
    """Calls a network with other parameters or buffers, in every place where each one acts.

    `torch.func.functional_call` finds tied tensors by itself, but leaves a module that the
    network holds under two names with the replaced ones. So every place is named here, once
    per module and not once per path to it.

    Args:
        network: The module; it has its own tensors again after every call.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        places: dict[int, list[str]] = {}
        for path, module in network.named_modules():
            own = {**dict(module.named_parameters(recurse=False)), **module._buffers}
            for role, tensor in own.items():
                if tensor is not None:
                    places.setdefault(id(tensor), []).append(f"{path}.{role}" if path else role)
        self._places = {names[0]: names for names in places.values()}

    def __call__(self, tensors: dict[str, Tensor], *args: Any) -> Tensor:  # noqa: ANN401
        """The network's answer.

        Args:
            tensors: By name, as `named_parameters` and `named_buffers` have it.
            args: What the network takes.
        """
        everywhere = {place: t for name, t in tensors.items() for place in self._places[name]}
        answer: Tensor = functional_call(self._network, everywhere, args, tie_weights=False)
        return answer


log = logging.getLogger(__name__)

_COPIES = 2**28  # bytes of moved weights that are held at once

Weights = dict[str, Tensor]


class _CannotStackError(Exception):
    """The network does something that vmap cannot follow."""


@final
class StackedWeights:
    """Answers l(theta + mu u_j), several directions per pass.

    A network that vmap cannot follow (control flow on the data, random layers, an operation
    without a batching rule) is asked one probe at a time, with the same numbers up to round-off.
    Buffers are copied for every probe, so that BatchNorm's running statistics stay as they were.

    Args:
        network: The module.
        coordinates: Its numbering.
        objective: See `zopde.contracts.Objective`.
        ask_moved: The plain way: the loss with some parameters replaced.
    """

    def __init__(
        self,
        network: nn.Module,
        coordinates: Coordinates,
        objective: Objective,
        ask_moved: Callable[[Weights], Tensor],
    ) -> None:
        self._network = network
        self._coordinates = coordinates
        self._objective = objective
        self._ask_moved = ask_moved
        self._replaced = Replaced(network)
        self._follows = True

    def under(self, objective: Objective, ask_moved: Callable[[Weights], Tensor]) -> StackedWeights:
        """The same for another objective."""
        other = copy.copy(self)
        other._objective, other._ask_moved = objective, ask_moved
        return other

    def answer(self, directions: Float[Tensor, "q d"], mu: float, chunk: int) -> Tensor:
        """(q,) losses.

        Args:
            directions: One per probe.
            mu: Step along each.
            chunk: Probes per pass; 1 is the plain way. Fewer where so many copies of the
                weights would need more than 256 MiB.

        Raises:
            InputError: If the directions are no (q, d) of floating-point numbers.
        """
        d = self._coordinates.total
        if directions.dim() != 2 or directions.shape[1] != d or not directions.is_floating_point():
            raise InputError(
                "directions",
                got=f"{directions.dtype} of shape {tuple(directions.shape)}",
                expected=f"floating-point numbers of shape (q, {d})",
            )
        if not len(directions):
            return torch.zeros(0)
        parts = directions.split(self.size(chunk))
        return torch.cat([self._pass(part, mu) for part in parts])

    def size(self, chunk: int) -> int:
        """Probes of a pass: `chunk`, or as many as memory allows."""
        return max(1, min(chunk, _COPIES // (8 * max(self._coordinates.total, 1))))

    def _pass(self, directions: Tensor, mu: float) -> Tensor:
        if len(directions) > 1 and self._follows:
            try:
                return self._together(self._moved(directions, mu), len(directions))
            except _CannotStackError as reason:
                log.debug("directions one at a time: %s", reason)
                self._follows = False
        answers = []
        for row in directions.split(1):
            moved = {name: value[0] for name, value in self._moved(row, mu).items()}
            answers.append(self._ask_moved(moved))
        return torch.stack(answers)

    def _moved(self, directions: Tensor, mu: float) -> Weights:
        """Parameter name -> (q, *shape), each probe's weights."""
        moved = {}
        for slot in self._coordinates.slots:
            weight = self._network.get_parameter(slot.name).detach()
            along = directions[:, slot.start : slot.stop].to(weight)
            moved[slot.name] = weight + mu * along.view(-1, *slot.shape)
        return moved

    def _together(self, moved: Weights, num_probes: int) -> Tensor:
        buffers = {
            name: buffer.expand(num_probes, *buffer.shape).clone()
            for name, buffer in self._network.named_buffers()
        }
        network = _Pass(self._replaced, {**buffers, **moved}, num_probes)
        with warnings.catch_warnings():
            # vmap loops over what has no batching rule; the loop is what we would do, too.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return self._objective(network, num_probes)


@final
class _Pass:
    """The network that an objective gets for one pass; see `zopde.contracts.ask_shared`."""

    def __init__(self, replaced: Replaced, tensors: Weights, num_probes: int) -> None:
        self._replaced = replaced
        self._tensors = tensors
        self._num_probes = num_probes

    def __call__(self, *args: Any) -> Tensor:  # noqa: ANN401 - as the network takes them
        """States of each probe's own: (num_probes * batch, ...)."""
        apart = [_per_probe(value, self._num_probes) for value in args]
        return self._mapped(apart, tuple(0 if isinstance(v, Tensor) else None for v in args))

    def shared(self, *args: Any) -> Tensor:  # noqa: ANN401
        """States that all probes have in common: (batch, ...)."""
        return self._mapped(args, (None,) * len(args))

    def _mapped(self, args: Sequence[Any], axes: tuple[int | None, ...]) -> Tensor:
        try:
            answer: Tensor = vmap(self._replaced, in_dims=(0, *axes))(self._tensors, *args)
            return answer.flatten(0, 1).contiguous()  # objectives use `view`
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # user code, and whatever vmap says about it
            raise _CannotStackError(f"{type(error).__name__}: {error}") from error


def _per_probe(value: Any, num_probes: int) -> Any:  # noqa: ANN401
    """(num_probes * batch, ...) -> (num_probes, batch, ...); no tensor: as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 0 or len(value) % num_probes:
        raise InputError(
            "network input",
            got=f"shape {tuple(value.shape)}",
            expected=f"a multiple of the {num_probes} probes, as the first axis",
        )
    return value.unflatten(0, (num_probes, -1))
