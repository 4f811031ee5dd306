"""Which weights each iteration probes: random masks, drawn anew from time to time, or one mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, final

import torch
from jaxtyping import Bool
from torch import Tensor

from zopde.seeding import generator
from zopde.sparsity.ratios import LayerRatio, LayerRatios
from zopde.sparsity.scores import Scores
from zopde.validate import check_positive, check_share


class Masks(Protocol):
    """Says which coordinates each iteration probes."""

    @property
    def active(self) -> int:
        """How many of them there are, the same at every iteration."""

    def mask(self, iteration: int) -> Bool[Tensor, " d"]:
        """Give an iteration its mask, a function of the iteration alone; True = active."""


@final
class RandomMasks:
    """Draws a uniformly random mask of a given sparsity every few iterations.

    Draw number `iteration // every` activates round((1 - sparsity) d) coordinates, at least
    one. It is a function of (seed, iteration) alone. Every coordinate has the same chance, so
    over many draws the sparse gradient points along the dense one. (Chen et al., ICLR 2024,
    Algorithm 1, with the same ratio in every layer.)

    Args:
        total: d, the number of coordinates.
        sparsity: Share that is NOT active, in [0, 1).
        every: Iterations between two draws, >= 1.
        seed: Decides the draws.

    Raises:
        InputError: If the sparsity is outside [0, 1) or `every` is not positive.
    """

    def __init__(self, total: int, sparsity: float, every: int, seed: int) -> None:
        check_share("sparsity", sparsity)
        check_positive("resample", every)
        self._total, self._every, self._seed = total, every, seed
        self.active = max(1, round((1 - sparsity) * total))

    def mask(self, iteration: int) -> Bool[Tensor, " d"]:
        """See `Masks`."""
        draw = generator(self._seed, "mask", iteration // self._every)
        mask = torch.zeros(self._total, dtype=torch.bool)
        mask[torch.randperm(self._total, generator=draw)[: self.active]] = True
        return mask


@final
class LayerMasks:
    """Draws a random mask of given layer-wise ratios every few iterations.

    Draw number `iteration // every` activates exactly `active` random entries of each layer,
    and all of the always active ones, else as in `RandomMasks`. (Chen et al., ICLR 2024,
    Algorithm 1.)

    Args:
        ratios: From `layer_ratios`.
        every: As in `RandomMasks`, like `seed` and what is raised.
        seed: Decides the draws.
    """

    def __init__(self, ratios: LayerRatios, every: int, seed: int) -> None:
        check_positive("resample", every)
        self._ratios, self._every, self._seed = ratios, every, seed
        self.active = ratios.active

    def mask(self, iteration: int) -> Bool[Tensor, " d"]:
        """See `Masks`."""
        draw = generator(self._seed, "mask", iteration // self._every)
        return _mask(self._ratios, lambda layer, _: torch.randperm(layer.weights, generator=draw))


@final
class FixedMask:
    """Keeps one mask for all iterations, as pruned weights need it.

    Args:
        mask: (d,), True = active.
    """

    def __init__(self, mask: Bool[Tensor, " d"]) -> None:
        self._mask, self.active = mask, int(mask.sum())

    def mask(self, iteration: int) -> Bool[Tensor, " d"]:  # noqa: ARG002 - always the same
        """See `Masks`."""
        return self._mask


def kept_mask(scores: Scores, ratios: LayerRatios) -> Bool[Tensor, " d"]:
    """Mark the weights that the ranking behind the ratios keeps: True at the lowest scores.

    Args:
        scores: What the ratios were made from.
        ratios: From `layer_ratios`.
    """
    values = scores.values.cpu().split([layer.weights for layer in ratios.layers])
    return _mask(ratios, lambda _, number: torch.argsort(values[number], stable=True))


def _mask(ratios: LayerRatios, order_of: Callable[[LayerRatio, int], Tensor]) -> Tensor:
    """True at the first `active` entries of each maskable layer in a given order."""
    masks = []
    for number, layer in enumerate(ratios.layers):
        mask = torch.ones(layer.weights, dtype=torch.bool)
        if layer.maskable:
            mask[order_of(layer, number)[layer.active :]] = False
        masks.append(mask)
    return torch.cat(masks)
