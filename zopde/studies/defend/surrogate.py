"""A network that is fitted to a classifier's answers, and whose derivative stands for its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.functional import jvp

from zopde.contracts import State
from zopde.interface import Agreement, Pullback, Step
from zopde.interface.vjp import Probing, Varied, differences
from zopde.nets import ScoreNet
from zopde.seeding import generator, global_stream
from zopde.studies.defend.budget import CHECK_EVERY
from zopde.zo.rge import rademacher

_FIRST, _NEXT = 500, 8  # updates of the first fit at least, and of each later one
_EPOCHS = 4  # of the first fit at least
_BATCH = 64
_LR = 2e-3
_NUMBERS = 2**24  # of the images that are kept; the oldest are forgotten


@final
class Surrogate:
    """Learns every answer that it is given, and remembers them.

        L = mean of |c(x) - E(x)|^2 / s^2,   scores less their mean over the classes

    E is a `ScoreNet`, c the classifier's log-scores, s their deviation among the first answers.
    A mean over the classes changes no probability, so it is left out.
    """

    def __init__(self, channels: int, side: int, classes: int, seed: int, device: str) -> None:
        self._seed = seed
        with global_stream(generator(seed, "weights", 1)):
            self._network = ScoreNet(channels, side, classes).to(device)
        self._optimizer = torch.optim.Adam(self._network.parameters(), _LR)
        self._scale = torch.ones((), device=device)
        self._images = torch.zeros(0, channels, side, side, device=device)
        self._answers = torch.zeros(0, classes, device=device)
        self.batches = 0  # learned after the first
        self.trusted = True  # whether its slopes passed the latest check
        self.agreement: Agreement | None = None  # what that found

    def scores(self, images: Float[Tensor, "n channel y x"]) -> Float[Tensor, "n class"]:
        """Log-scores, with a graph; no query."""
        scores: Tensor = self._scale * self._network(images)
        return scores

    @torch.no_grad()
    def labels(self, images: Float[Tensor, "n channel y x"]) -> Int[Tensor, " n"]:
        """What it takes each image for; no query."""
        return self.scores(images).argmax(dim=1)

    def begin(self, images: Tensor, answers: Float[Tensor, "n class"]) -> None:
        """Learn the first answers."""
        self._scale = _centred(answers).std().clamp_min(torch.finfo(answers.dtype).tiny)
        self._remember(images, answers)
        self._fit(max(_FIRST, _EPOCHS * len(self._images) // _BATCH), 0)

    def learn(self, images: Tensor, answers: Float[Tensor, "n class"]) -> None:
        """Learn some more, among all that are remembered."""
        self.batches += 1
        self._remember(images, answers)
        self._fit(_NEXT, self.batches)

    def _remember(self, images: Tensor, answers: Tensor) -> None:
        most = max(1, _NUMBERS // images[0].numel())
        self._images = torch.cat([self._images, images])[-most:]
        self._answers = torch.cat([self._answers, _centred(answers)])[-most:]

    @torch.enable_grad()
    def _fit(self, updates: int, number: int) -> None:
        draw = generator(self._seed, "order", 2**32 + number)
        rows = torch.randint(len(self._images), (updates, _BATCH), generator=draw)
        for chosen in rows.to(self._images.device):
            off = _centred(self._network(self._images[chosen]))
            off = off - self._answers[chosen] / self._scale
            self._optimizer.zero_grad()
            off.square().mean().backward()
            self._optimizer.step()

    def state(self) -> dict[str, Any]:
        """All that it knows, for a checkpoint."""
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "kept": (self._scale, self._images, self._answers),
            "checked": (self.batches, self.trusted, self.agreement and vars(self.agreement)),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Know what a checkpoint says, and nothing else."""
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        device = self._images.device
        self._scale, self._images, self._answers = (part.to(device) for part in state["kept"])
        self.batches, self.trusted, agreement = state["checked"]
        self.agreement = agreement and Agreement(**agreement)


def _centred(scores: Float[Tensor, "n class"]) -> Float[Tensor, "n class"]:
    return scores - scores.mean(dim=1, keepdim=True)


@final
class Learning(nn.Module):
    """A network in training, and what its surrogate knows: one checkpoint holds both."""

    def __init__(self, network: nn.Module, surrogate: Surrogate) -> None:
        super().__init__()
        self.network, self._surrogate = network, surrogate

    def forward(self, x: Tensor) -> Tensor:
        """What the network answers."""
        answer: Tensor = self.network(x)
        return answer

    def get_extra_state(self) -> dict[str, Any]:
        """Of the surrogate, as torch asks for it."""
        return self._surrogate.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Of the surrogate, as torch hands it back."""
        self._surrogate.restore(state)


@final
class SurrogatePullback:
    """Takes J^T v from a `Surrogate`, which then learns the answers that the step has given.

    Every so often, before it learns them, its slopes are compared with measured ones: along one
    random direction d for each image

        cosine of <v, J_E d> and <v, [c(z + mu d) - c(z)] / mu> over the images of the batch.

    Where that is less than `below`, `fallback` gives the product, and every batch is checked until
    one agrees. Queries: those of the checks, one or two for each image, and of the fallback.
    Nothing is assumed of the classifier but that it answers scores.

    Args:
        surrogate: What learns.
        decode: From what enters the black box to the classifier's image.
        probing: How a slope is measured.
        below: Least cosine at which the surrogate is trusted; 0 trusts it always.
        fallback: What gives products where it is not.
        seed: Decides the directions.
        tell: Told where the surrogate is trusted no more, and where again.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        decode: Callable[[Tensor], Tensor],
        probing: Probing,
        below: float,
        fallback: Pullback,
        seed: int,
        tell: Callable[[str], None],
    ) -> None:
        self._surrogate, self._decode, self._probing = surrogate, decode, probing
        self._below, self._fallback, self._seed, self._tell = below, fallback, seed, tell

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `zopde.interface.Pullback`."""
        surrogate = self._surrogate
        if surrogate.batches % CHECK_EVERY == 0 or not surrogate.trusted:
            self._check(step, cotangent)
        # All queries come before the surrogate changes: one that fails leaves it as it was.
        instead = None if surrogate.trusted else self._fallback(step, cotangent)
        with torch.no_grad():
            surrogate.learn(self._decode(step.state), step.stepped)
        if instead is not None:
            return instead
        with torch.enable_grad():
            cut = step.state.detach().clone().requires_grad_()
            (product,) = torch.autograd.grad(self._answer(cut), cut, cotangent)
        return product

    def _answer(self, cut: Tensor) -> Tensor:
        return self._surrogate.scores(self._decode(cut))

    def _check(self, step: Step, cotangent: State) -> None:
        surrogate, cut, mu = self._surrogate, step.state, self._probing.mu
        draw = generator(self._seed, "probes", 2**32 + surrogate.batches)
        d = rademacher(len(cut), cut[0].numel(), draw, torch.float32).to(cut).view_as(cut)
        rows = torch.arange(len(cut), device=cut.device)
        measured = differences(step, rows, d, mu, self._probing.scheme)
        with torch.enable_grad():
            _, pushed = jvp(self._answer, cut, d)
        exact, found = ((cotangent * part).double().sum(dim=1) for part in (measured, pushed))
        size = exact.norm().clamp_min(torch.finfo(torch.float64).tiny)
        cosine = float(torch.cosine_similarity(exact, found, dim=0))
        surrogate.agreement = Agreement(cosine, float((found - exact).norm() / size))
        trusted, before = self._below <= 0 or cosine >= self._below, surrogate.trusted
        surrogate.trusted = trusted
        if trusted != before:
            text = f"the surrogate's slopes and the classifier's agree {cosine:.2f} (a cosine): "
            text += "its derivative is used again" if trusted else "queries take its place"
            self._tell(f"{text}, after {surrogate.batches} batches")
