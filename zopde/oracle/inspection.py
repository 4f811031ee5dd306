"""What stacked probes assume, tested on all of a batch, and on all of a weight, at once.

The samples of `zopde.oracle.verify` miss rows that are coupled in one channel, and a weight of
which other code reads a part.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from operator import attrgetter
from typing import Any, final

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from zopde.contracts import ask_shared
from zopde.oracle.stack import Stack, repeats, shapes_of
from zopde.oracle.state import holding, is_states, set_streams, streams, unchanged
from zopde.oracle.verify import moved, resolution

_COUPLED = "an answer depends on what else is in the batch"
_READ = "it acts outside its layer, too"
# Of the states beside a batch: their size, in its own; what of its whole numbers is in the batch.
_OTHERS = ((0.0, Tensor.amin), (1.0, Tensor.amax), (10.0, Tensor.amax))
_COMPANY = 3  # batches: one between two others

Extreme = Callable[[Tensor, int], Tensor]


@final
class Inspection:
    """The network that an objective gets for two probes that move nothing; it tests their calls.

    1. What a weight does that is moved wherever code reads it, it must do as well where it is
       moved only while the forward of its layers runs.
    2. A batch must be answered alike alone and between two others. What only a fuller pass shows
       is for the samples to find.

    All weights are moved at random for that: behind a layer of zeros all answers agree.
    """

    def __init__(self, network: nn.Module, stack: Stack) -> None:
        self.wrong: dict[str, str] = {}  # parameters whose probes cannot share passes, and why
        self._network, self._stack = network, stack
        self._draw, self._tested = Generator().manual_seed(2), set[str]()
        self._weights = {p: moved(p, 0.1, self._draw) for p in network.parameters()}

    def __call__(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401 - as the network takes them
        """Stacked states to stacked answers, at the weights themselves."""
        kind = shapes_of(args, named)
        if kind not in self._tested and any(map(_is_batch, tree_leaves((args, named)))):
            self._tested.add(kind)
            with holding(self._weights):
                self._test(args, named)
        return self._stack.whole([], 2, args, named)

    def shared(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401
        """States that both probes have in common."""
        return ask_shared(self.__call__, 2, *args, **named)

    def _test(self, *call: Any) -> None:  # noqa: ANN401
        def answers(count: int, batch_of: Callable[[Tensor], Tensor]) -> list[Any]:
            args, named = tree_map(lambda v: batch_of(v) if _is_batch(v) else v, call)
            before = streams()
            with unchanged(self._network):
                answer = self._stack.whole([], count, args, named)
            set_streams(before)
            parts = [v for v in tree_leaves(answer) if is_states(v) and len(v) % count == 0]
            return [v.chunk(count)[count // 2] for v in parts if len(v)]

        for name, uses in self._stack.uses.items():
            weight = attrgetter(name)(self._network)
            near, far = weight.data, moved(weight, 1.0, self._draw)
            with holding({weight: far}):
                everywhere = answers(1, _half)
            with holding({weight: near}), ExitStack() as stack:
                for layer, _ in uses:  # hooks of others find it near, before and behind
                    begin, end = _setter(weight, far), _setter(weight, near)
                    stack.callback(layer.register_forward_pre_hook(begin).remove)
                    stack.callback(layer.register_forward_hook(end, prepend=True).remove)
                inside = answers(1, _half)
            if self._differ(everywhere, inside):
                self.wrong[name] = _READ
        for size, extreme in _OTHERS:
            alone = answers(1, partial(_one_batch, extreme))
            among = answers(_COMPANY, partial(self._in_company, size, extreme))
            if self._differ(alone, among):
                self.wrong = dict.fromkeys(self._stack.uses, _COUPLED)
                return

    def _in_company(self, size: float, extreme: Extreme, states: Tensor) -> Tensor:
        """The batch in the middle of others, drawn at random; whole numbers stay in their range."""
        own = _one_batch(extreme, states)
        company = own.repeat(_COMPANY, *[1] * (own.dim() - 1))
        if _is_inexact(own):
            company = size * (moved(company, 1.0, self._draw) - company)
        else:
            low, high = states.amin(0).long(), states.amax(0).long()
            share = torch.rand(company.shape, generator=self._draw).to(own.device)
            company = (low + (share * (high - low + 1)).long()).to(own.dtype)
        company.chunk(_COMPANY)[_COMPANY // 2].copy_(own)
        return company

    def _differ(self, answers: list[Tensor], others: list[Tensor]) -> bool:
        """Whether they differ by more than round-off."""
        share = resolution(self._network) ** 0.5
        for one, other in zip(answers, others, strict=False):
            if one.shape == other.shape and one.numel():
                allowed = share * float(one.abs().nan_to_num().max())
                if not torch.isclose(other, one, 0, allowed, equal_nan=True).all():
                    return True
        return False


def _is_batch(value: object) -> bool:
    """Whether an argument holds the same states for both probes."""
    return isinstance(value, Tensor) and is_states(value) and len(value) > 0 and repeats(value, 2)


def _half(states: Tensor) -> Tensor:
    return states[: len(states) // 2]


def _is_inexact(states: Tensor) -> bool:
    return states.is_floating_point() or states.is_complex()


def _one_batch(extreme: Extreme, states: Tensor) -> Tensor:
    """The batch; of whole numbers one alone, since all others would bring it nothing new."""
    own = _half(states)
    return own if _is_inexact(own) else extreme(own, 0).expand_as(own)


def _setter(weight: nn.Parameter, value: Tensor) -> Callable[..., None]:
    return lambda *_: setattr(weight, "data", value)
