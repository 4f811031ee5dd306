"""Probes along whole directions: every probe has weights of its own, stacked under vmap."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from zopde.contracts import Objective
from zopde.errors import InputError, SolverError
from zopde.oracle.chunks import out_of_memory
from zopde.oracle.coordinates import Coordinates, from_reals, reals
from zopde.oracle.state import Replaced, is_states

log = logging.getLogger(__name__)

_COPIES = 2**28  # bytes of moved weights that are held at once

Weights = dict[str, Tensor]
DIRECTIONS = "directions"  # stands for a parameter's name, where all are moved at once


@final
class StackedWeights:
    """Answers l(theta + mu u_j), several directions per pass.

    A network that vmap cannot follow (control flow on the data, random layers, an operation
    without a batching rule) gets one probe at a time, with the same numbers up to round-off.
    Buffers are copied for every probe, so that BatchNorm's running statistics stay as they were.
    The calls that come are noted in `seen`.
    """

    def __init__(
        self, network: nn.Module, coordinates: Coordinates, replaced: Replaced, seen: set[str]
    ) -> None:
        self._network, self._coordinates = network, coordinates
        self._replaced, self._seen = replaced, seen
        self.follows = True

    def losses(
        self,
        directions: Float[Tensor, "q d"],
        mu: float,
        chunk: int,
        objective: Objective,
        query: Callable[[Weights], Tensor],
    ) -> Float[Tensor, " q"]:
        """The loss of every probe, `chunk` of them per pass, see `size`; 1 is the plain way.

        That is `query`: the loss with some parameters replaced.

        Raises:
            InputError: If the directions are no (q, d) of floating-point numbers.
        """
        d = self._coordinates.total
        if directions.dim() != 2 or directions.shape[1] != d or not directions.is_floating_point():
            got = f"{directions.dtype} of shape {tuple(directions.shape)}"
            expected = f"floating-point numbers of shape (q, {d})"
            raise InputError("directions", got=got, expected=expected)
        if not len(directions):
            return torch.zeros(0)

        def one_pass(rows: Tensor) -> Tensor:
            if len(rows) > 1 and self.follows:
                try:
                    return self._together(self._moved(rows, mu), len(rows), objective)
                except Exception as reason:  # user code may raise anything
                    if out_of_memory(reason) or isinstance(reason, SolverError):
                        raise
                    log.debug("directions one at a time: %s", reason)
                    self.follows = False
            moved = (self._moved(row, mu).items() for row in rows.split(1))
            return torch.stack([query({name: w[0] for name, w in items}) for items in moved])

        return torch.cat([one_pass(rows) for rows in directions.split(chunk)])

    def size(self, chunk: int) -> int:
        """Probes of a pass: fewer than `chunk` where their weights would need over 256 MiB."""
        return max(1, min(chunk, _COPIES // (8 * max(self._coordinates.total, 1))))

    def _moved(self, directions: Tensor, mu: float) -> Weights:
        """Parameter name -> (q, *shape), each probe's weights."""
        moved = {}
        for parameter in self._coordinates.slices:
            weight = attrgetter(parameter.name)(self._network).detach()
            along = directions[:, parameter.start : parameter.stop].to(reals(weight))
            numbers = reals(weight) + mu * along.view(len(along), *parameter.shape)
            moved[parameter.name] = from_reals(numbers, weight)
        return moved

    def _together(self, moved: Weights, num_probes: int, objective: Objective) -> Tensor:
        named = self._network.named_buffers()
        buffers = {n: b.expand(num_probes, *b.shape).clone() for n, b in named}
        network = _Pass(self._replaced, {**buffers, **moved}, num_probes, self._seen)
        with warnings.catch_warnings():
            # vmap loops over what has no batching rule; the loop is what we would do, too.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return objective(network, num_probes)


@final
class _Pass:
    """The network that an objective gets for one pass; see `zopde.contracts.ask_shared`."""

    def __init__(
        self, replaced: Replaced, tensors: Weights, num_probes: int, seen: set[str]
    ) -> None:
        self._replaced, self._tensors = replaced, tensors
        self._num_probes, self._seen = num_probes, seen

    def __call__(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401 - as the network takes them
        """States of each probe's own: (num_probes * batch, ...)."""
        values = [*args, *named.values()]
        by_probe = [self._by_probe(v) if is_states(v) else v for v in values]
        return self._mapped(by_probe, [0 if is_states(v) else None for v in values], [*named])

    def shared(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401
        """States that all probes have in common: (batch, ...)."""
        values = [*args, *named.values()]
        return self._mapped(values, [None] * len(values), [*named])

    def _mapped(
        self, values: Sequence[Any], axes: Sequence[int | None], names: Sequence[str]
    ) -> Tensor:
        """The network's answers, the last values being called by name."""
        pairs = zip(values, axes, strict=True)
        kinds = [tuple(v.shape[a is not None :]) for v, a in pairs if is_states(v)]
        self._seen.add(f"{DIRECTIONS}: {kinds}")
        count = len(values) - len(names)

        def call(tensors: Weights, *values: Any) -> Tensor:  # noqa: ANN401
            named = dict(zip(names, values[count:], strict=True))
            return self._replaced(tensors, *values[:count], **named)

        answer: Tensor = vmap(call, in_dims=(0, *axes))(self._tensors, *values)
        return answer.flatten(0, 1).contiguous()  # objectives use `view`

    def _by_probe(self, value: Tensor) -> Tensor:
        """(num_probes * batch, ...) -> (num_probes, batch, ...)."""
        if value.dim() == 0 or len(value) % self._num_probes:
            expected = f"a multiple of the {self._num_probes} probes, as the first axis"
            raise InputError("network input", got=f"shape {tuple(value.shape)}", expected=expected)
        by_probe: Tensor = value.unflatten(0, (self._num_probes, -1))
        return by_probe
