"""The losses of a defence, and what answers them on the other side of the cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.contracts import Forcing, Network, State, ask_shared, repeat_states
from zopde.interface import Pullback, queried
from zopde.studies.defend.blackbox import BlackBox

Decode = Callable[[Tensor], Tensor]
Ask = Callable[[Tensor, Tensor], Tensor]
"""(what enters the black box (n, ...), targets (n,)) -> losses (n,)."""


def entropies(scores: Float[Tensor, "n class"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """-log softmax(s)_t for every image."""
    return F.cross_entropy(scores, targets, reduction="none")


@final
@dataclass(frozen=True)
class LossBox:
    """Decoder, classifier and loss as one black box: one number for each image.

    Args:
        box: The classifier.
        decode: From the cut to an image.
    """

    box: BlackBox
    decode: Decode

    def step(self, state: State, forcing: Forcing | None = None) -> Float[Tensor, "n 1"]:
        """Losses at `state`, the cut; `forcing` holds the targets. See `Stepping`."""
        assert forcing is not None, "a loss has a target"
        return entropies(self.box.scores(self.decode(state)), forcing)[:, None]


def by_queries(box: BlackBox, decode: Decode, pullback: Pullback) -> Ask:
    """Losses that back-propagation can pass: the pullback asks for each image's gradient."""
    inside = LossBox(box, decode)
    return lambda cut, targets: queried(inside, pullback, cut, targets)[:, 0]


def asked(box: BlackBox, decode: Decode) -> Ask:
    """Losses alone."""
    return lambda cut, targets: entropies(box.scores(decode(cut)), targets)


def white(box: BlackBox, decode: Decode) -> Ask:
    """Losses with the classifier's own graph."""
    return lambda cut, targets: entropies(box.white(decode(cut)), targets)


@final
@dataclass(frozen=True)
class Stability:
    """l = mean over the batch of -log softmax(f(g(x + e)))_t + w |g(x + e) - x|^2 / pixels.

    f is the classifier, t its own label of the clean image, g the defence. (Salman et al.,
    NeurIPS 2020, eq. 3 and 4.) The second term asks the classifier nothing.

    Args:
        clean: (batch, channel, y, x), x, pixels in [0, 1].
        noisy: x + e.
        targets: (batch,), t.
        ask: Who answers the first term.
        decode: From the network's output to an image.
        mse: w.
    """

    clean: Float[Tensor, "batch channel y x"]
    noisy: Float[Tensor, "batch channel y x"]
    targets: Int[Tensor, " batch"]
    ask: Ask
    decode: Decode
    mse: float = 0.0

    def __call__(self, network: Network, num_probes: int) -> Float[Tensor, " num_probes"]:
        """One loss per probe; see `zopde.contracts.Objective`."""
        cut = ask_shared(network, num_probes, self.noisy)
        losses = self.ask(cut, self.targets.repeat(num_probes))
        if self.mse:
            clean = repeat_states(self.clean, num_probes)
            assert clean is not None
            away = (self.decode(cut) - clean).square().flatten(1).mean(dim=1)
            losses = losses + self.mse * away
        return losses.view(num_probes, -1).mean(dim=1)


@final
@dataclass(frozen=True)
class Reconstruction:
    """l = mean square of network(x + e) - x; asks no classifier.

    Args:
        clean: (batch, channel, y, x), x.
        noisy: What the network gets.
    """

    clean: Float[Tensor, "batch channel y x"]
    noisy: Float[Tensor, "batch channel y x"]

    def __call__(self, network: Network, num_probes: int) -> Float[Tensor, " num_probes"]:
        """One loss per probe; see `zopde.contracts.Objective`."""
        found = ask_shared(network, num_probes, self.noisy)
        clean = repeat_states(self.clean, num_probes)
        assert clean is not None
        return (found - clean).square().view(num_probes, -1).mean(dim=1)
