"""Stretches of a video: how far apart two of them are, and how many are found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_DISTANCE, _DURATION = 0.2, 0.4  # below these a term no longer counts
_OF_DURATION = 0.1  # weight

THRESHOLDS = (0.3, 0.5, 0.7)
"""Of the intersection over union, at which `recall_at` is published."""


def overlap(
    found: Float[Tensor, "batch 2"], true: Float[Tensor, "batch 2"]
) -> Float[Tensor, " batch"]:
    """Intersection over union of two spans (start, end).

    It is 0 where they have nothing in common, or one ends before it starts. The union is the hull
    of both, which is the same where they overlap.
    """
    both = torch.minimum(found[:, 1], true[:, 1]) - torch.maximum(found[:, 0], true[:, 0])
    hull = torch.maximum(found[:, 1], true[:, 1]) - torch.minimum(found[:, 0], true[:, 0])
    return both.clamp_min(0) / hull.clamp_min(torch.finfo(hull.dtype).eps)


def temporal_distance(
    found: Float[Tensor, "batch 2"], true: Float[Tensor, "batch 2"]
) -> Float[Tensor, " batch"]:
    """How wrong a span is: the temporal-distance IoU loss.

        1 - IoU + max(|c - c'|, 0.2) + 0.1 max((d - d')^2, 0.4)

    c is the centre and d the duration of a span, in shares of the video. The second term has a
    slope where the spans are too far apart for the first. (Zhang et al., CVPR 2023.) When it fails:
    short spans that do not touch, their centres nearer than 0.2, have no slope at all.

    Args:
        found: (start, end) of each video, in shares of it.
        true: What they should be.
    """
    centre = (found.mean(dim=1) - true.mean(dim=1)).abs().clamp_min(_DISTANCE)
    duration = (found - true).diff(dim=1).flatten().square().clamp_min(_DURATION)
    return 1 - overlap(found, true) + centre + _OF_DURATION * duration


def recall_at(
    found: Float[Tensor, "batch 2"],
    true: Float[Tensor, "batch 2"],
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[float]:
    """R@1: the percentage of spans with an intersection over union of a threshold, or more.

    Args:
        found: The one (start, end) that is answered for each sentence.
        true: What they should be.
        thresholds: In (0, 1].
    """
    iou = overlap(found, true)
    return [100 * float((iou >= least).double().mean()) for least in thresholds]
