"""Classifiers by name."""

from __future__ import annotations

from torch import nn

from zopde.nets import CifarResNet, SmallCNN
from zopde.plugins import load_object

_KINDS: dict[str, type[nn.Module]] = {"cnn": SmallCNN, "resnet": CifarResNet}


def build_network(kind: str, channels: int, classes: int, sizes: dict[str, int]) -> nn.Module:
    """A classifier of images.

    Args:
        kind: "cnn", "resnet", "package.module:Class" or "file.py:Class".
        channels: Of an image.
        classes: How many there are.
        sizes: Further keyword arguments.
    """
    factory = _KINDS.get(kind) or load_object(kind)
    network: nn.Module = factory(channels, classes, **sizes)
    return network
