"""Which coordinates are asked for."""

from zopde.sparsity.grasp import grasp_scores, zo_grasp_scores
from zopde.sparsity.masks import FixedMask, LayerMasks, Masks, RandomMasks, kept_mask
from zopde.sparsity.ratios import LayerRatio, LayerRatios, layer_ratios
from zopde.sparsity.scores import Scores, magnitude_scores, random_scores

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
