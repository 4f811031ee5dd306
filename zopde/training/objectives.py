"""The loss of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.protocols import Network, ask_shared


@final
@dataclass(frozen=True)
class CrossEntropy:
    """l = mean over the batch of -log softmax(f(x))_y, for every probe.

    Args:
        x: (batch, channel, y, x), what the network gets.
        labels: (batch,), y.
    """

    x: Float[Tensor, "batch channel y x"]
    labels: Int[Tensor, " batch"]

    def __call__(self, network: Network, num_probes: int) -> Float[Tensor, " num_probes"]:
        """One loss per probe; see `zopde.protocols.Objective`."""
        logits = ask_shared(network, num_probes, self.x)
        # With the classes in front, states side by side are one long vector per class.
        labels = self.labels.repeat(num_probes)[None]
        losses = F.cross_entropy(logits.t()[None], labels, reduction="none")
        return losses.view(num_probes, -1).mean(dim=1)
