"""A corrector on a mesh: points exchange messages with their neighbours."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zopde.errors import InputError
from zopde.nets.correctors import check_sizes, start_at_zero
from zopde.validate import checked


@final
class GraphCorrector(nn.Module):
    """Corrects a state on a mesh by a few rounds of messages between neighbours.

        m_ij = gelu(A h_i + B h_j + C e_ij),   h_j <- h_j + D mean_i m_ij

    over the neighbours i of each point j. e_ij is the way from i to j, and its length, in units of
    the mean length of an edge; h is linear in the input at first, and the correction linear in h at
    the end. Messages have no order, so the numbering of the points does not matter. With 1 input
    and 1 output channel, width 16 and 3 rounds on a plane it has 2,593 parameters. The last layer
    starts at zero, so training starts from the uncorrected solver. Inside, the points come before
    the states of the batch, so a `WeightOracle` asks for the probes of its weights one at a time.

    Args:
        inputs: Input channels (state and forcing together).
        outputs: Output channels (those of the state).
        edges: (edge, 2), the points (from, to), as `Mesh.edges`.
        positions: (point, axis), as `Mesh.positions`.
        width: Channels of h and of the messages.
        rounds: How often messages are sent: a correction sees so many neighbours far, >= 1.

    Raises:
        InputError: If a size is no whole number >= 1, or an edge names no point.
    """

    senders: Tensor
    receivers: Tensor
    ways: Tensor
    shares: Tensor

    @checked
    def __init__(
        self,
        inputs: int,
        outputs: int,
        edges: Int[Tensor, "edge 2"],
        positions: Float[Tensor, "point axis"],
        width: int = 16,
        rounds: int = 3,
    ) -> None:
        super().__init__()
        check_sizes(inputs=inputs, outputs=outputs, width=width, rounds=rounds)
        count = len(positions)
        if edges.shape[1:] != (2,) or not ((edges >= 0) & (edges < count)).all():
            got = f"shape {tuple(edges.shape)}, points {edges.min()} to {edges.max()}"
            expected = f"(edge, 2), from the {count} points of positions"
            raise InputError("edges", got=got, expected=expected)
        senders, receivers = edges.T
        way = positions[receivers] - positions[senders]
        length = way.norm(dim=1, keepdim=True)
        ways = torch.cat([way, length], dim=1) / length.mean()
        shares = 1 / torch.bincount(receivers, minlength=len(positions))
        # Not saved with the weights: edges and positions are, see `Normalised`
        self.register_buffer("senders", senders, persistent=False)
        self.register_buffer("receivers", receivers, persistent=False)
        self.register_buffer("ways", ways.float()[:, None], persistent=False)
        self.register_buffer("shares", shares.float()[:, None, None], persistent=False)
        self.enter = nn.Linear(inputs, width)
        self.sent = _layers(width, width, rounds)
        self.received = _layers(width, width, rounds, bias=False)
        self.along = _layers(ways.shape[1], width, rounds, bias=False)
        self.update = _layers(width, width, rounds)
        self.leave = nn.Linear(width, outputs)
        start_at_zero(self.leave)

    def forward(self, x: Float[Tensor, "b i point"]) -> Float[Tensor, "b o point"]:
        """Normalised channels -> a normalised correction."""
        # (point, b, width): what an edge reads and adds lies in one piece, which is far faster
        h: Tensor = self.enter(x.permute(2, 0, 1))
        for layers in zip(self.sent, self.received, self.along, self.update, strict=True):
            sent, received, along, update = layers
            there = sent(h).index_select(0, self.senders)
            here = received(h).index_select(0, self.receivers)
            messages = nn.functional.gelu(there + here + along(self.ways))
            mean = torch.zeros_like(h).index_add(0, self.receivers, messages) * self.shares
            h = h + update(mean)
        correction: Tensor = self.leave(h).permute(1, 2, 0)
        return correction


def _layers(inputs: int, outputs: int, rounds: int, bias: bool = True) -> nn.ModuleList:
    """One layer for each round, the same at every point or edge."""
    return nn.ModuleList(nn.Linear(inputs, outputs, bias) for _ in range(rounds))
