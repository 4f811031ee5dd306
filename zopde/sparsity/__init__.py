"""Which coordinates are asked for."""

from zopde.sparsity.masks import RandomMasks

__all__ = ["RandomMasks"]
