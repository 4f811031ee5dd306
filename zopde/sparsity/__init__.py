"""Which coordinates are asked for."""

from zopde.sparsity.masks import FixedMask, LayerMasks, Masks, RandomMasks, kept_mask
from zopde.sparsity.ratios import LayerRatio, LayerRatios, layer_ratios
from zopde.sparsity.scores import (
    Scores,
    grasp_scores,
    magnitude_scores,
    random_scores,
    zo_grasp_scores,
)

__all__ = [
    "FixedMask",
    "LayerMasks",
    "LayerRatio",
    "LayerRatios",
    "Masks",
    "RandomMasks",
    "Scores",
    "grasp_scores",
    "kept_mask",
    "layer_ratios",
    "magnitude_scores",
    "random_scores",
    "zo_grasp_scores",
]
