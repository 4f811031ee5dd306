"""Which coordinates are asked for."""

from zopde.sparsity.grasp import grasp_scores, zo_grasp_scores
from zopde.sparsity.masks import LayerMasks, Masks, RandomMasks
from zopde.sparsity.ratios import LayerRatio, LayerRatios, layer_ratios
from zopde.sparsity.scores import Scores, magnitude_scores, random_scores

__all__ = [
    "LayerMasks",
    "LayerRatio",
    "LayerRatios",
    "Masks",
    "RandomMasks",
    "Scores",
    "grasp_scores",
    "layer_ratios",
    "magnitude_scores",
    "random_scores",
    "zo_grasp_scores",
]
