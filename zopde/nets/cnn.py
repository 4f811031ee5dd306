"""Small convolutional classifiers: as many weights as zeroth order can train in hours."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows


@final
class SmallCNN(nn.Module):
    """Levels of convolution, norm, ReLU and pooling, then one linear layer.

        y = W mean(level_depth(... level_1(x))) + b,   level = maxpool2 . relu . BatchNorm . conv3x3

    With 18 channels, 3 input channels and 10 classes, depths 1 ... 5 have 730, 3,700, 6,670,
    9,640 and 12,610 parameters. (Chen et al., ICLR 2024, section 4.)

    Args:
        in_channels: Channels of an image.
        classes: How many there are.
        depth: Levels; each halves the image.
        width: Channels of every level.

    Example:
        >>> from zopde.nets import SmallCNN
        >>> [sum(p.numel() for p in SmallCNN(3, 10, depth).parameters()) for depth in (1, 2, 5)]
        [730, 3700, 12610]
    """

    def __init__(self, in_channels: int, classes: int, depth: int = 1, width: int = 18) -> None:
        super().__init__()
        sizes = [in_channels] + [width] * depth
        self.levels = nn.Sequential(*(_level(before, after) for before, after in pairwise(sizes)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        # Norms and pools of images with the channels last take half the time on a CPU.
        x = x.contiguous(memory_format=torch.channels_last)
        features = F.adaptive_avg_pool2d(self.levels(x), 1).flatten(1)
        logits: Tensor = self.head(features)
        return logits


def _level(before: int, after: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))
