"""An image classifier from scratch, its back-propagation never called.

    python examples/09_classify.py

A convolutional network of 274 weights learns the embedded digits (8 x 8 pixels) four times: by
back-propagation; by coordinate-wise estimates of every weight (CGE); of a random tenth of them,
drawn anew for every update; and along as many random directions (RGE) as that tenth has weights.
All see the same batches from the same start: what differs is the gradient alone. `zopde
classify` is this in earnest: DeepZero's networks and layer-wise ratios, resume, a run folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde import WeightOracle, cge, load_images, rge
from zopde.contracts import ask_shared
from zopde.data import ImageData
from zopde.nets import SmallCNN
from zopde.sparsity import RandomMasks
from zopde.zo import Estimate

EPOCHS, BATCH, MU = 6, 64, 5e-3
Ask = Callable[[WeightOracle, int], Estimate]


@dataclass(frozen=True)
class CrossEntropy:
    """The loss of a batch, for as many probes as there are side by side."""

    images: Tensor
    labels: Tensor

    def __call__(self, network: Callable[..., Tensor], num_probes: int) -> Tensor:
        """(num_probes,); `ask_shared` says that all probes see the same images."""
        logits = ask_shared(network, num_probes, self.images)
        labels = self.labels.repeat(num_probes)
        return F.cross_entropy(logits, labels, reduction="none").view(num_probes, -1).mean(dim=1)


def ways(weights: int) -> dict[str, Ask | None]:
    """How each gradient is asked for; None back-propagates."""
    tenth = RandomMasks(weights, sparsity=0.9, every=1, seed=0)
    draw = torch.Generator().manual_seed(0)
    return {
        "FO": None,
        "CGE": lambda oracle, _: cge(oracle, mu=MU),
        "CGE, a tenth": lambda oracle, i: cge(oracle, tenth.mask(i).nonzero().flatten(), MU),
        "RGE": lambda oracle, _: rge(oracle, tenth.active, MU, draw),
    }


def train(network: nn.Module, data: ImageData, ask: Ask | None) -> int:
    """A few epochs of Adam; how many queries they took."""
    mean, deviation = data.scale()
    pixels = (data.train.pixels.float() - mean[:, None, None]) / deviation[:, None, None]
    order = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-2)
    queries = iteration = 0
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(pixels), generator=order).split(BATCH):
            loss = CrossEntropy(pixels[chosen], data.train.labels[chosen])
            optimizer.zero_grad()
            # Unperturbed, once: BatchNorm's running statistics come from here, not from probes.
            here = loss(network, 1)
            if ask is None:
                here.backward()
            else:
                oracle = WeightOracle(network, loss, chunk=128)
                estimate = ask(oracle, iteration)
                oracle.set_gradient(estimate.gradient)
                queries += estimate.queries
            optimizer.step()
            queries, iteration = queries + 1, iteration + 1
    return queries


def accuracy(network: nn.Module, data: ImageData) -> float:
    """Per cent of the test images."""
    mean, deviation = data.scale()
    pixels = (data.test.pixels.float() - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        named = network.eval()(pixels).argmax(dim=1)
    return 100 * float((named == data.test.labels).float().mean())


def main() -> dict[str, tuple[float, int]]:
    """(accuracy in per cent, queries) by way."""
    data = load_images("")
    weights = sum(p.numel() for p in SmallCNN(1, 10, depth=1, width=12).parameters())
    found = {}
    for name, ask in ways(weights).items():
        torch.manual_seed(0)
        network = SmallCNN(data.channels, len(data.classes), depth=1, width=12)
        queries = train(network, data, ask)
        found[name] = (accuracy(network, data), queries)
    return found


if __name__ == "__main__":
    for name, (percent, queries) in main().items():
        print(f"{name:<13} {percent:5.1f} % of the test images, {queries:7,} queries")
