"""Gradient sources that a classifier needs: masked back-propagation, running statistics."""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from zopde.protocols import Objective
from zopde.sparsity import Masks
from zopde.training.gradients import Gradient, GradientSource
from zopde.zo.coordinates import Coordinates
from zopde.zo.norms import uses_batch_statistics


@final
class Masked:
    """Another source's gradient, zero where a mask is not active.

    Args:
        inner: The source.
        masks: Which coordinates each iteration keeps.
    """

    def __init__(self, inner: GradientSource, masks: Masks) -> None:
        self._inner = inner
        self._masks = masks

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """At the inner source's price."""
        found = self._inner(network, objective, iteration)
        active = self._masks.mask(iteration)
        for slot in Coordinates(network).slots:
            grad = network.get_parameter(slot.name).grad
            if grad is not None:
                grad *= active[slot.start : slot.stop].view(slot.shape).to(grad)
        return Gradient(found.loss, found.queries, active)


@final
class RunningStatistics:
    """Another source's gradient; BatchNorm's running statistics then see the batch once.

    Probes must not write them: hundreds of nearly equal batches would. So the unperturbed
    network passes the batch once more, one query, and writes them as training does. A network
    without such layers is left alone.

    Args:
        inner: A source that leaves buffers as they are.
    """

    def __init__(self, inner: GradientSource) -> None:
        self._inner = inner

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """One query more than the inner source."""
        found = self._inner(network, objective, iteration)
        if not any(uses_batch_statistics(module) for module in network.modules()):
            return found
        with torch.no_grad():
            objective(network, 1)
        return Gradient(found.loss, found.queries + 1, found.active)
