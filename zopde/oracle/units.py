"""The oracle of a network's units: probes that move pre-activations in place of weights.

A layer's weight acts through its pre-activation a alone, and a is linear in it. So the derivatives
of each sample's loss in a, with the layer's inputs, give those in the weight exactly. A unit is
moved like a weight (`zopde.oracle.coordinates`): it changes one channel of the layer's output. So
units share passes of the network, and the layers in front of theirs, as weights do.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from zopde.contracts import Network, Objective, PerSample
from zopde.errors import ObjectiveError
from zopde.oracle.coordinates import ParameterSlice, ProbeBlock, Use
from zopde.oracle.one_channel import CONVS
from zopde.oracle.stack import Stack, StackedPass
from zopde.oracle.state import holding, is_due
from zopde.oracle.unit_change import UnitChange, weight_gradient
from zopde.oracle.unit_checks import Hook, UnitTrial, check_mean, check_unmixed
from zopde.oracle.verify import aside, moved
from zopde.oracle.weights import WeightOracle, in_passes
from zopde.validate import checked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Units:
    """A layer that has fewer units than weights."""

    layer: nn.Module
    x: Tensor  # (batch, ...), its input at the present weights
    own: ParameterSlice  # the numbers of its units, by the name of its weight; the output's shape
    pieces: list[ParameterSlice]  # the coordinates that the units tell of: weight and bias


@final
class UnitOracle(WeightOracle):
    """Answers l_s(a + mu e_u), a being the pre-activations of a network's layers, s a sample.

    Units are those of convolutions and linear layers that the network's forward calls once.
    Weights can be moved as well; see `WeightOracle`, which also says how the network is treated.

    Before the first gradient, whenever the network's structure, mode or inputs change, and again
    at gradients 4, 8, 16, 32 and every 64th, each layer with units is examined, some six queries
    for each: that samples do not mix, that its weight acts through its output alone and as the
    rule for the gradient says, and that stacked units give what single ones give.
    A layer that fails is probed by its weights from then on, and a warning names it.

    Args:
        network: Any module without BatchNorm in train mode.
        objective: Also tells the loss of each sample; see `zopde.contracts.PerSample`.
        chunk: Probes per pass; None finds out.
        memory: Most bytes of tensors that a pass may hold; None is half of what is free.
        verify: False compares nothing.

    Raises:
        InputError: If samples of the network mix.
        ObjectiveError: If the objective has no `per_sample`; from a gradient, if its samples mix,
            or if it is not their mean.
    """

    @checked
    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        chunk: int | None = None,
        memory: int | None = None,
        verify: bool = True,
    ) -> None:
        self._units: dict[str, _Units] = {}  # at the present weights
        self._batch, self._failed, self._examined = 0, set[str](), dict[str, int]()
        super().__init__(network, _Mean(objective), chunk, memory, verify=verify)

    def _set_up(self) -> None:
        check_unmixed(self._network)
        super()._set_up()
        self._by_units = Stack(self._network, False, True, set())
        self._failed.clear()
        self._examined.clear()

    def under(self, objective: Objective) -> Self:
        """The same network under another objective; see `WeightOracle.under`."""
        return super().under(_Mean(objective))

    @torch.no_grad()
    def samples(self) -> Float[Tensor, " batch"]:
        """The loss of every sample at the weights: one query. The layers' inputs are kept."""
        self.refresh()
        layers, calls = self._layers(), dict[str, list[tuple[Tensor, tuple[int, ...]]]]()
        with _watched(layers, calls):
            self._query({})
        losses, start = self._losses[0], 0
        self._units, self._batch = {}, len(losses)
        for name, seen in calls.items():
            (x, (batch, *shape)), pieces = seen[0], self._pieces(name)
            count = torch.Size(shape).numel()
            fewer = count < sum(piece.stop - piece.start for piece in pieces)
            if len(seen) == 1 and batch == len(losses) and fewer:
                own = ParameterSlice(name, start, start + count, tuple(shape))
                self._units[name] = _Units(layers[name], x, own, pieces)
                start = own.stop
        self._by_units.uses = {n: [Use(u.layer, UnitChange)] for n, u in self._units.items()}
        self._examine(losses)
        return losses

    def cheaper(self, indices: Int[Tensor, " k"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
        """Share coordinates out: the units of layers that have fewer, and the weights of others.

        Args:
            indices: (k,) coordinates.
        """
        numbers, left = [torch.zeros(0, dtype=torch.int64)], torch.ones(len(indices)).bool()
        for units in self._units.values():
            inside = torch.zeros_like(left)
            for piece in units.pieces:
                inside |= (indices >= piece.start) & (indices < piece.stop)
            if units.own.stop - units.own.start < int(inside.sum()):
                numbers.append(torch.arange(units.own.start, units.own.stop))
                left &= ~inside
        return torch.cat(numbers), indices[left]

    @torch.no_grad()
    def units(self, units: Int[Tensor, " n"], mu: float) -> Float[Tensor, "n batch"]:
        """The loss of every sample where unit j is moved by mu in all samples: n queries.

        Args:
            units: (n,) sorted numbers, as `cheaper` gives them.
            mu: How far, in the units of the pre-activation.
        """
        steps = torch.full((len(units),), mu, dtype=torch.float64)
        with self._by_units.at_these_weights():
            losses = in_passes(self._chunks, units, steps, self._pass_of_units)
        return torch.cat(losses) if losses else self._losses.new_zeros(0, self._batch)

    def from_units(
        self, units: Int[Tensor, " n"], slopes: Float[Tensor, "n batch"]
    ) -> Float[Tensor, " d"]:
        """The gradient of the mean loss in the weights of the layers whose units these are.

        Args:
            units: (n,) as `cheaper` gives them: all units of a layer, or none.
            slopes: (n, batch), the derivative of each sample's loss in each unit.
        """
        like = next(self._network.parameters())
        gradient = torch.zeros(self._coordinates.total, dtype=like.dtype, device=like.device)
        for name, held in self._units.items():
            rows = slopes[(units >= held.own.start) & (units < held.own.stop)]
            if len(rows):
                slope = rows.t().reshape(-1, *held.own.shape) / self._batch
                weight, bias = weight_gradient(held.layer, held.x, slope.to(held.x))
                for piece in held.pieces:
                    part = weight if piece.name == name else bias
                    gradient[piece.start : piece.stop] = part.flatten().to(gradient)
        return gradient

    @property
    def _losses(self) -> Tensor:
        """Those of the samples in the latest query or pass, (probe, batch)."""
        mean: Any = self._objective
        losses: Tensor = mean.latest
        return losses

    def _layers(self) -> dict[str, nn.Module]:
        """Name of a weight -> its layer, of those whose units can be moved."""
        return {
            name: uses[0].layer
            for name, uses in self._stack.uses.items()
            if len(uses) == 1 and name not in self._failed and name.endswith("weight")
            if type(uses[0].layer) in (nn.Linear, *CONVS)
        }

    def _pieces(self, name: str) -> list[ParameterSlice]:
        """The layer's trainable parameters that its units tell of: the weight, its own bias."""
        bias = name.removesuffix("weight") + "bias"
        names = {name} | ({bias} if len(self._stack.uses.get(bias, ())) == 1 else set())
        return [piece for piece in self._coordinates.slices if piece.name in names]

    def _pass_of_units(self, units: Tensor, steps: Tensor) -> Tensor:
        """The losses (k, batch) of sorted units that share a pass."""
        blocks, first = [], 0
        for own in (held.own for held in self._units.values()):
            positions = units[(units >= own.start) & (units < own.stop)] - own.start
            if len(positions):
                after = first + len(positions)
                blocks.append(ProbeBlock(own, first, positions, steps[first:after]))
                first = after
        self._ask(StackedPass(self._by_units, blocks), len(units))
        return self._losses

    def _examine(self, losses: Tensor) -> None:
        """Where it is time, examine every layer; one that fails is probed by its weights."""
        number = self._number[0]
        kind = f"units of {[tuple(held.x.shape) for held in self._units.values()][:1]}"
        due = is_due(number) and number not in self._examined.values()
        if self._verify is False or not self._units or (kind in self._examined and not due):
            return
        whole: Any = copy.copy(self)
        whole._objective = whole._objective.whole
        check_mean(float(whole._query({})), float(losses.mean()), self._eps)
        trial, draw = UnitTrial(self._network, self._plain, self._together), Generator()
        draw.manual_seed(2)
        weights = {p: moved(p, 0.1, draw) for p in self._network.parameters()}
        with aside(), holding(weights):
            for name, held in [*self._units.items()]:
                why = trial.fault(name, held.layer, held.own)
                if why:
                    log.warning("units of %s: %s; it is probed by its weights", name, why)
                    self._failed.add(name)
                    del self._units[name]
        self.checked[f"units, gradient {number}" if due else kind] += 1 + trial.queries
        self._examined[kind] = number

    def _plain(self, weights: dict[str, Tensor], layer: nn.Module, hook: Hook) -> Tensor:
        """The losses (batch,) with some weights replaced and a layer's output as the hook says."""
        handle = layer.register_forward_hook(hook, prepend=True)
        try:
            self._query(weights)
        finally:
            handle.remove()
        return self._losses[0]

    def _together(self, units: Tensor, step: float) -> Tensor:
        """The losses (k, batch) of sorted units, in one pass."""
        steps = torch.full((len(units),), step, dtype=torch.float64)
        with self._by_units.at_these_weights():
            return self._pass_of_units(units, steps)


@contextmanager
def _watched(
    layers: dict[str, nn.Module], calls: dict[str, list[tuple[Tensor, tuple[int, ...]]]]
) -> Iterator[None]:
    """Inside this context the input of every layer is kept, and the shape of its output."""

    def note(name: str, _: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ANN401
        calls.setdefault(name, []).append((args[0].clone(), tuple(output.shape)))

    handles = [
        layer.register_forward_hook(partial(note, name), prepend=True)
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@final
class _Mean:
    """An objective's mean over the samples of its batch; the losses of the latest are kept."""

    def __init__(self, objective: Objective) -> None:
        if not isinstance(objective, PerSample):
            got, expected = "no `per_sample`", "per_sample(network, num_probes) -> a loss a sample"
            remedy = "write it, as zopde.training.CrossEntropy does, or probe weights"
            raise ObjectiveError("objective", got=got, expected=expected, remedy=remedy)
        self.whole, self._samples = objective, objective
        self.latest = torch.zeros(0)

    def __call__(self, network: Network, num_probes: int) -> Tensor:
        """The mean of each probe's samples."""
        self.latest = losses = self._samples.per_sample(network, num_probes)
        if losses.dim() != 2 or len(losses) != num_probes or losses.is_complex():
            got = f"{losses.dtype} of shape {tuple(losses.shape)}"
            expected = f"one real loss a sample, ({num_probes}, batch)"
            raise ObjectiveError("per_sample", got=got, expected=expected)
        return losses.mean(dim=1)
