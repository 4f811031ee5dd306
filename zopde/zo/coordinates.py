"""Numbering of a module's weights: one flat vector theta, and where each entry lives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Slot:
    """One parameter tensor's place in theta.

    Args:
        name: Qualified name in the module, "body.0.weight".
        start: First coordinate.
        stop: One past the last coordinate.
        shape: Shape of the tensor.
    """

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


class Coordinates:
    """theta = all trainable parameters of `module`, flattened, in the order of its names.

    A tied parameter counts once. Indices are int64 throughout.

    Args:
        module: Any `nn.Module`.
    """

    def __init__(self, module: nn.Module) -> None:
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        bounds = torch.tensor([0, *(p.numel() for _, p in named)]).cumsum(0).tolist()
        self._parameters = [p for _, p in named]
        self.slots = [
            Slot(name, start, stop, tuple(parameter.shape))
            for (name, parameter), (start, stop) in zip(named, pairwise(bounds), strict=True)
        ]
        self.total: int = bounds[-1]

    def split(self, indices: Int[Tensor, " k"]) -> list[tuple[Slot, Tensor]]:
        """Share sorted `indices` out over the slots, as positions inside each tensor."""
        edges = torch.tensor([s.start for s in self.slots] + [self.total])
        cuts = torch.searchsorted(indices, edges).tolist()
        return [
            (slot, indices[a:b] - slot.start)
            for slot, (a, b) in zip(self.slots, pairwise(cuts), strict=True)
            if b > a
        ]

    def set_gradient(self, gradient: Float[Tensor, " d"]) -> None:
        """Hand a flat gradient to the parameters, as `backward()` would."""
        for slot, parameter in zip(self.slots, self._parameters, strict=True):
            part = gradient[slot.start : slot.stop].view(slot.shape)
            parameter.grad = part.to(dtype=parameter.dtype, device=parameter.device).clone()
