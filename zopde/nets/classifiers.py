"""Classifiers of small images: few weights for zeroth order, and the residual networks."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.errors import InputError


@final
class SmallCNN(nn.Module):
    """Classifies small images with few weights: levels of convolution, then one linear layer.

        y = W mean(level_depth(... level_1(x))) + b,   level = maxpool2 . relu . BatchNorm . conv3x3

    With 18 channels, 3 input channels and 10 classes, depths 1 ... 5 have 730, 3,700, 6,670,
    9,640 and 12,610 parameters. (Chen et al., ICLR 2024, section 4.)

    Args:
        in_channels: Channels of an image.
        classes: How many there are.
        depth: Levels; each halves the image.
        width: Channels of every level.
        groups: Of channels that are normalised together, by GroupNorm; it keeps samples apart. 0:
            BatchNorm.

    Raises:
        InputError: If the width cannot be divided by the groups.

    Example:
        >>> from zopde.nets import SmallCNN
        >>> [sum(p.numel() for p in SmallCNN(3, 10, depth).parameters()) for depth in (1, 2, 5)]
        [730, 3700, 12610]
    """

    def __init__(
        self, in_channels: int, classes: int, depth: int = 1, width: int = 18, groups: int = 0
    ) -> None:
        super().__init__()
        sizes = [in_channels] + [width] * depth
        self.levels = nn.Sequential(*(_level(*pair, groups) for pair in pairwise(sizes)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        # Norms and pools of images with the channels last take half the time on a CPU.
        x = self.levels(x.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _level(before: int, after: int, groups: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, padding=1)
    return nn.Sequential(convolution, _norm(after, groups), nn.ReLU(), nn.MaxPool2d(2))


def _norm(channels: int, groups: int) -> nn.Module:
    """GroupNorm, or BatchNorm for 0 groups."""
    if groups and channels % groups:
        expected = f"a divisor of {channels} channels; without it there is BatchNorm"
        raise InputError("groups", got=groups, expected=expected)
    return nn.GroupNorm(groups, channels) if groups else nn.BatchNorm2d(channels)


@final
class CifarResNet(nn.Module):
    """Classifies small images by the residual network of depth 6 n + 2: three stages of n blocks.

        y = W mean(stage_3(stage_2(stage_1(relu(BatchNorm(conv3x3(x))))))) + b

    A stage has 1, 2, 4 times `width` channels, the later two begin at half the resolution.
    Shortcuts have no weights: every second pixel, missing channels zero, as many in front as
    behind (option A). First weights have variance 2 / fan-in. (He et al., CVPR 2016, section
    4.2; 269,722 parameters at depth 20.)

    Args:
        in_channels: Channels of an image.
        classes: How many there are.
        depth: 20, 32, 44, 56, ...
        width: Channels of the first stage, even.
        groups: As in `SmallCNN`.

    Raises:
        InputError: If the depth is not 6 n + 2, the width is odd, or the groups do not divide it.

    Example:
        >>> from zopde.nets import CifarResNet
        >>> sum(parameter.numel() for parameter in CifarResNet(3, 10).parameters())
        269722
    """

    def __init__(
        self, in_channels: int, classes: int, depth: int = 20, width: int = 16, groups: int = 0
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise InputError("depth", got=depth, expected="6 n + 2: 20, 32, 44, 56, ...")
        if width < 2 or width % 2:
            raise InputError("width", got=width, expected="an even number >= 2")
        blocks = (depth - 2) // 6
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm = _norm(width, groups)
        self.stages = nn.Sequential(
            stage(width, width, blocks, groups),
            stage(width, 2 * width, blocks, groups),
            stage(2 * width, 4 * width, blocks, groups),
        )
        self.head = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        features = self.stages(torch.relu(self.norm(self.conv(x))))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


@final
class _Block(nn.Module):
    """relu(x' + norm(conv(relu(norm(conv(x)))))), x' the shortcut."""

    def __init__(self, before: int, after: int, groups: int = 0) -> None:
        super().__init__()
        self._missing = (after - before) // 2
        stride = 2 if self._missing else 1
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(after, groups)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = _norm(after, groups)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        if self._missing:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self._missing, self._missing))
        return torch.relu(residual + x)


def stage(before: int, after: int, blocks: int, groups: int = 0) -> nn.Sequential:
    """Residual blocks in a row; the first changes `before` to `after` channels, if they differ."""
    later = (_Block(after, after, groups) for _ in range(blocks - 1))
    return nn.Sequential(_Block(before, after, groups), *later)
