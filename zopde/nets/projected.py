"""A network's trainable weights, moved by a few numbers alone."""

from __future__ import annotations

from math import sqrt
from typing import Any, final

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from zopde.errors import InputError
from zopde.validate import check_count, checked


@final
class Projected(nn.Module):
    """Lets a few numbers z move all trainable weights of a network, each tensor by a low rank.

        W = W_0 + U diag(s) V^T / r,    (U, s, V) of all tensors = w_0 + M z / sqrt(dimension)

    z is what is trained, from zero on; there W = W_0, for s is zero. M and the rest of w_0 are
    standard normal and stay as they were drawn. A tensor counts as a matrix of shape[0] rows. Few
    numbers need few queries: the error of a random direction grows with their count. (After ZIP,
    Park et al., ICLR 2025, arXiv 2504.06838; M is a plain matrix here, and tensors share no part.)

    When it fails: M has `dimension` columns and r (rows + columns + 1) rows for each tensor, all in
    memory. And what no such move reaches cannot be learned.

    Args:
        network: Any module; its weights are no longer trainable.
        dimension: Length of z.
        rank: r, at most the rows and the columns of a tensor.
        generator: Source of M and w_0.

    Raises:
        InputError: If a size is no whole number >= 1, or no weight is trainable.
    """

    start: Tensor
    matrix: Tensor

    @checked
    def __init__(self, network: nn.Module, dimension: int, rank: int, generator: Generator) -> None:
        super().__init__()
        check_count("dimension", dimension)
        check_count("rank", rank)
        self.network = network
        weights = {name: w for name, w in network.named_parameters() if w.requires_grad}
        if not weights:
            raise InputError("network", got="no trainable weight", expected="one or more")
        self._sizes = {name: _sizes(weight, rank) for name, weight in weights.items()}
        start = []
        for rows, columns, r in self._sizes.values():
            left, right = (torch.randn(n * r, generator=generator) for n in (rows, columns))
            start += [left, torch.zeros(r), right]
        self.register_buffer("start", torch.cat(start))
        matrix = torch.randn(len(self.start), dimension, generator=generator)
        self.register_buffer("matrix", matrix / sqrt(dimension))
        self.z = nn.Parameter(torch.zeros(dimension))
        network.requires_grad_(False)

    def moved(self) -> dict[str, Tensor]:
        """The weights at the present z, by name."""
        parts, weights = self.start + self.matrix @ self.z, dict(self.network.named_parameters())
        moved = {}
        for name, (rows, columns, r) in self._sizes.items():
            left, scales, right, parts = parts.split(
                [rows * r, r, columns * r, len(parts) - (rows + columns + 1) * r]
            )
            change = (left.view(rows, r) * scales) @ right.view(columns, r).T / r
            moved[name] = weights[name] + change.view(weights[name].shape)
        return moved

    def forward(self, *inputs: Any) -> Any:  # noqa: ANN401 - as the network has them
        """What the network answers with the moved weights."""
        return functional_call(self.network, self.moved(), inputs)


def _sizes(weight: Tensor, rank: int) -> tuple[int, int, int]:
    rows = len(weight) if weight.dim() else 1
    columns = weight.numel() // rows
    return rows, columns, min(rank, rows, columns)
