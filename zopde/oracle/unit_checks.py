"""What an oracle of units assumes, examined layer by layer before anybody relies on it.

All weights are moved at random for that: behind a layer of zeros all answers would agree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, final

import torch
from torch import Generator, Tensor, nn

from zopde.errors import InputError, ObjectiveError, first_line
from zopde.oracle.chunks import out_of_memory
from zopde.oracle.coordinates import ParameterSlice
from zopde.oracle.norms import uses_batch_statistics
from zopde.oracle.unit_change import weight_gradient
from zopde.oracle.verify import moved, resolution

_STEP = 3.0  # of a unit, in the root mean square of its layer's output
_ROUND_OFF = 100.0  # in units of eps, what a loss behind many layers may be off by

REMEDY = (
    "take GroupNorm in its place (network.sizes.groups=2 in `zopde classify`) or norms in eval "
    "mode, or probe weights"
)

Hook = Callable[[nn.Module, Any, Tensor], Tensor]


def check_unmixed(network: nn.Module) -> None:
    """Require a network without BatchNorm in train mode: it mixes the samples of a batch.

    Raises:
        InputError: If there is one.
    """
    for name, module in network.named_modules():
        if uses_batch_statistics(module):
            got, expected = f"BatchNorm in train mode at {name!r}", "samples that do not mix"
            raise InputError("probes of units", got=got, expected=expected, remedy=REMEDY)


def check_mean(whole: float, mean: float, eps: float) -> None:
    """Require that the loss of an objective is the mean over its samples.

    Raises:
        ObjectiveError: If it is not.
    """
    if abs(whole - mean) > _ROUND_OFF * eps * (1 + abs(mean)):
        got, expected = f"a mean of {mean:.8g}", f"the objective's own loss, {whole:.8g}"
        remedy = "let the objective return per_sample(network, num_probes).mean(dim=1)"
        raise ObjectiveError("per_sample", got=got, expected=expected, remedy=remedy)


@final
class UnitTrial:
    """The examination of one network.

    Args:
        network: Its weights are those to examine with.
        plain: (weights replaced, layer, hook) -> each sample's loss; the plain way, one query.
        stacked: (units (k,) of a layer, step) -> losses (k, batch), in one pass.
    """

    def __init__(
        self,
        network: nn.Module,
        plain: Callable[[dict[str, Tensor], nn.Module, Hook], Tensor],
        stacked: Callable[[Tensor, float], Tensor],
    ) -> None:
        self._network, self._plain, self._stacked = network, plain, stacked
        self._draw, self.queries = Generator().manual_seed(3), 0
        self._eps = resolution(network)

    def fault(self, name: str, layer: nn.Module, own: ParameterSlice) -> str:
        """Why the units of a layer cannot be relied on; "" where they can.

        Raises:
            ObjectiveError: If samples mix.
        """
        weight = attrgetter(name)(self._network).detach()
        other = moved(weight, 0.5, self._draw)
        seen: list[tuple[Tensor, Tensor]] = []
        note = partial(_note, seen)
        base, everywhere = self._ask({}, layer, note), self._ask({name: other}, layer, note)
        if len(seen) != 2:
            return "the layer is not called once"
        (x, y), (same, there) = seen
        change = there - y
        if self._differ(x, same, change=0.0):
            return "its weight acts in front of it, too"
        if self._differ(self._ask({}, layer, _adding(change)), everywhere, base=base):
            return "its weight acts outside its output, too"
        self._check_apart(layer, change, base, everywhere)
        slope, _ = weight_gradient(layer, x, change)
        told, expected = float((slope * (other - weight)).sum()), float(change.square().sum())
        if abs(told - expected) > self._eps**0.5 * expected:
            return "its gradient does not follow from its input"
        return self._stacked_fault(layer, y, own, base)

    def _check_apart(self, layer: nn.Module, change: Tensor, base: Tensor, moved: Tensor) -> None:
        """Move every second sample: its loss alone may change, as where all are moved."""
        half = change.clone()
        half[::2] = 0
        expected = moved.clone()
        expected[::2] = base[::2]
        if self._differ(self._ask({}, layer, _adding(half)), expected, base=base):
            got, expected_words = "the loss of a sample depends on another", "samples apart"
            raise ObjectiveError("per_sample", got=got, expected=expected_words, remedy=REMEDY)

    def _stacked_fault(self, layer: nn.Module, y: Tensor, own: ParameterSlice, base: Tensor) -> str:
        """Some units in one pass, against each alone."""
        some = torch.randint(own.stop - own.start, (3,), generator=self._draw).sort().values
        step = _STEP * float(y.square().mean().sqrt())
        try:
            together = self._stacked(own.start + some, step)
        except Exception as error:  # user code may raise anything
            if out_of_memory(error) or isinstance(error, ObjectiveError):
                raise
            return f"{type(error).__name__}: {first_line(error)}"
        self.queries += len(some)
        for row, unit in zip(together, some.tolist(), strict=True):
            change = torch.zeros_like(y)
            change.view(len(y), -1)[:, unit] = step
            if self._differ(self._ask({}, layer, _adding(change)), row, base=base):
                return "stacked units differ from single ones"
        return ""

    def _ask(self, weights: dict[str, Tensor], layer: nn.Module, hook: Hook) -> Tensor:
        self.queries += 1
        return self._plain(weights, layer, hook)

    def _differ(
        self, one: Tensor, other: Tensor, base: Tensor | None = None, change: float = 0.0
    ) -> bool:
        """Whether they differ by more than round-off."""
        if one.shape != other.shape:
            return True
        size = float(one.abs().nan_to_num(0, 0, 0).max())
        if base is not None:
            change = float((one - base).abs().nan_to_num(0, 0, 0).max())
        allowed = _ROUND_OFF * self._eps * (1 + size) + self._eps**0.5 * change
        return not bool(torch.isclose(one, other, 0, allowed, equal_nan=True).all())


def _note(seen: list[tuple[Tensor, Tensor]], _: nn.Module, args: Any, output: Tensor) -> Tensor:  # noqa: ANN401
    seen.append((args[0].clone(), output.clone(memory_format=torch.contiguous_format)))
    return output


def _adding(change: Tensor) -> Hook:
    return lambda _layer, _args, output: output + change
