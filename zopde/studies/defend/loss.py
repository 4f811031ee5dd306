"""The losses of a defence, and what gives them on the other side of the cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde.contracts import Forcing, Network, Objective, State, ask_shared
from zopde.interface import Agreement, DensePullback, Probing, Pullback, RandomPullback, queried
from zopde.seeding import generator
from zopde.studies.defend.blackbox import BlackBox
from zopde.studies.defend.labels import Label
from zopde.studies.defend.open import TRAINING, Opened
from zopde.studies.defend.surrogate import SurrogatePullback
from zopde.studies.defended import Defence
from zopde.training import load_checkpoint, save_checkpoint

_ENTRIES = 8192  # of a pullback's probes at a time
Decode = Callable[[Tensor], Tensor]
Entropies = Callable[[Tensor, Tensor], Tensor]
"""(what enters the black box (n, ...), targets (n,)) -> -log softmax(scores)_target (n,)."""


def entropies_of(scores: Callable[[Tensor], Tensor], decode: Decode) -> Entropies:
    """Losses of some scores, with as much of a graph as these have."""
    return lambda cut, targets: F.cross_entropy(scores(decode(cut)), targets, reduction="none")


@final
@dataclass(frozen=True)
class LossBox:
    """Decoder, classifier and loss as one black box: one number for each image."""

    box: BlackBox  # the classifier
    decode: Decode  # from the cut to an image

    def step(self, state: State, forcing: Forcing | None = None) -> Float[Tensor, "n 1"]:
        """Losses at `state`, the cut; `forcing` holds the targets. See `Stepping`."""
        assert forcing is not None, "a loss has a target"
        return entropies_of(self.box.scores, self.decode)(state, forcing)[:, None]


def by_queries(box: BlackBox, decode: Decode, pullback: Pullback) -> Entropies:
    """Losses that back-propagation can pass: the pullback finds each image's gradient."""
    inside = LossBox(box, decode)
    return lambda cut, targets: queried(inside, pullback, cut, targets)[:, 0]


@final
@dataclass(frozen=True)
class ScoreBox:
    """Decoder and classifier as one black box: a vector of scores for each image."""

    box: BlackBox  # the classifier
    decode: Decode  # from the cut to an image

    def step(self, state: State, forcing: Forcing | None = None) -> Float[Tensor, "n class"]:  # noqa: ARG002
        """Log-scores at `state`, the cut. See `Stepping`."""
        return self.box.scores(self.decode(state))


def by_scores(box: BlackBox, decode: Decode, pullback: Pullback) -> Entropies:
    """As `by_queries`, but the pullback finds the Jacobian of the scores times a vector alone.

    That vector is the derivative of the loss by the scores, which is known without a query:
    softmax(scores) less one at the target.
    """
    inside = ScoreBox(box, decode)
    return entropies_of(lambda cut: queried(inside, pullback, cut), lambda cut: cut)


@final
@dataclass(frozen=True)
class Stability:
    """l = mean over the batch of -log softmax(f(g(x + e)))_t + w |g(x + e) - x|^2 / pixels.

    f is the classifier, t its own label of the clean image, g the defence. (Salman et al.,
    NeurIPS 2020, eq. 3 and 4.) The second term takes no query.
    """

    clean: Float[Tensor, "batch channel y x"]  # x, pixels in [0, 1]
    noisy: Float[Tensor, "batch channel y x"]  # x + e
    targets: Int[Tensor, " batch"]  # t
    entropies: Entropies  # gives the first term
    decode: Decode  # from the network's output to an image
    mse: float = 0.0  # w

    def __call__(self, network: Network, num_probes: int) -> Float[Tensor, " num_probes"]:
        """One loss per probe; see `zopde.contracts.Objective`."""
        cut = ask_shared(network, num_probes, self.noisy)
        losses = self.entropies(cut, self.targets.repeat(num_probes))
        if self.mse:
            off = self.decode(cut).unflatten(0, (num_probes, -1)) - self.clean
            losses = losses + self.mse * off.square().flatten(2).mean(dim=2).flatten()
        return losses.view(num_probes, -1).mean(dim=1)


def without_queries(objective: Objective) -> Objective:
    """The mean square of the images instead: it asks the network likewise, and no classifier."""
    assert isinstance(objective, Stability)
    decode = objective.decode
    return replace(objective, entropies=lambda cut, _: decode(cut).square().flatten(1).mean(dim=1))


@final
@dataclass(frozen=True)
class Reconstruction:
    """l = mean square of network(x + e) - x; takes no query."""

    clean: Float[Tensor, "batch channel y x"]  # x
    noisy: Float[Tensor, "batch channel y x"]  # what the network gets

    def __call__(self, network: Network, num_probes: int) -> Float[Tensor, " num_probes"]:
        """One loss per probe; see `zopde.contracts.Objective`."""
        restored = ask_shared(network, num_probes, self.noisy)
        off: Tensor = restored.unflatten(0, (num_probes, -1)) - self.clean
        return off.square().flatten(1).mean(dim=1)


@final
class Losses:
    """The losses of one training through the classifier.

    What is trained is the defence up to the cut; what comes behind is the black box's.
    """

    def __init__(
        self,
        opened: Opened,
        label: Label,
        defence: Defence,
        seed: int,
        box: BlackBox,
        tell: Callable[[str], None],
    ) -> None:
        self._opened, self._label, self._seed, self.box = opened, label, seed, box
        self._decode = defence.decoder.requires_grad_(False)
        self._batches, self._tell = opened.images.batches(seed, opened.budget.batch), tell
        self.surrogate = opened.new_surrogate(seed) if label.surrogate else None

    def begin(self) -> None:
        """Let the surrogate, if there is one, learn the answers to some clean images."""
        if self.surrogate is not None:
            all_of_them = self._label.gradient == "distilled"
            count = self._opened.budget.images if all_of_them else self._opened.budget.first
            clean = self._opened.images.first(self._seed, count)
            self.surrogate.begin(clean, self.box.scores(clean))

    def agreement(self) -> Agreement | None:
        """How well the surrogate agreed with the classifier at the latest check."""
        return None if self.surrogate is None else self.surrogate.agreement

    def at(self, iteration: int) -> Stability:
        """The loss on a batch, whose labels take queries unless the surrogate gives all."""
        pixels, images = self._batches.at(iteration)[0], self._opened.images
        clean, noisy = images.pair(pixels, self._seed, TRAINING, iteration)
        if self.surrogate is not None and not self._asks(iteration):
            entropies = entropies_of(self.surrogate.scores, self._decode)
            return self._on(clean, noisy, self.surrogate.labels(clean), entropies)
        return self._on(clean, noisy, self.box.labels(clean), self._entropies(iteration))

    def _asks(self, iteration: int) -> bool:
        """Whether the classifier sees the batch of an iteration that has a surrogate."""
        distilled = self._label.gradient == "distilled"
        return not distilled and iteration % self._opened.budget.updates == 0

    @torch.no_grad()
    def watched(self, network: nn.Module, path: Path) -> float:
        """The loss on the watched images; their labels take queries once, and stay in a file."""
        clean, noisy = self._opened.images.watched(self._seed, self._opened.budget.watched)
        state = load_checkpoint(path)
        if state is None:
            state = {"targets": self.box.labels(clean)}
            save_checkpoint(path, state)
        entropies = entropies_of(self.box.scores, self._decode)
        loss = self._on(clean, noisy, state["targets"].to(clean.device), entropies)
        return float(loss(network, 1)[0])

    def _on(self, clean: Tensor, noisy: Tensor, targets: Tensor, entropies: Entropies) -> Stability:
        return Stability(clean, noisy, targets, entropies, self._decode, self._opened.mse)

    def _entropies(self, iteration: int) -> Entropies:
        gradient = self._label.gradient
        if gradient in {"weights", "backprop"}:
            scores = self.box.scores_with_graph if gradient == "backprop" else self.box.scores
            return entropies_of(scores, self._decode)
        ask = by_scores if self._label.scores else by_queries
        return ask(self.box, self._decode, self._pullback(iteration))

    def _pullback(self, iteration: int) -> Pullback:
        queries, opened = self._opened.queries, self._opened
        mu = queries.mu_latent if self._label.autoencoder else queries.mu
        if self._label.gradient == "cge":
            return DensePullback(mu, queries.scheme, _ENTRIES, 1.0)
        draw, count = generator(self._seed, "probes", iteration), queries.directions
        random = RandomPullback(draw, count, mu, queries.scheme, _ENTRIES, 1.0)
        if self.surrogate is None:
            return random
        probing, below = Probing(mu, queries.scheme), opened.below
        more = below, random, self._seed, self._tell
        return SurrogatePullback(self.surrogate, self._decode, probing, *more)
