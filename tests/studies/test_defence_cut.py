"""The latent cut: what queries say of each image's gradient, against back-propagation."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from zopde.interface import DensePullback, RandomPullback
from zopde.studies.defend.blackbox import BlackBox, Ledger
from zopde.studies.defend.loss import Stability, by_queries, entropies_of
from zopde.training import Backprop

CLASSES, LATENT, BATCH = 4, 6, 5


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise AssertionError("back-propagated through the black box")


@pytest.fixture
def parts(gen):
    torch.manual_seed(0)
    # Smooth, so that the order of an error can be seen: a ReLU has kinks.
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, LATENT), nn.Unflatten(1, (LATENT, 1, 1)))
    decoder = nn.Sequential(
        nn.Flatten(), nn.Linear(LATENT, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8))
    )
    encoder, decoder = encoder.double(), decoder.double().requires_grad_(False)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    classifier = classifier.double().requires_grad_(False)
    x = torch.rand(BATCH, 1, 8, 8, generator=gen, dtype=torch.float64)
    return encoder, decoder, classifier, x


def by_backprop(box, decode):
    return entropies_of(box.scores_with_graph, decode)


def gradient(parts, ask_of, mse=0.0):
    encoder, decoder, classifier, x = parts
    box = BlackBox(classifier, CLASSES, Ledger())
    ask = ask_of(box, decoder)
    objective = Stability(x, x, torch.arange(BATCH) % CLASSES, ask, decoder, mse)
    found = Backprop()(encoder, objective, 0)
    flat = torch.cat([p.grad.flatten() for p in encoder.parameters()])
    return flat, found.loss, box.ledger.queries


def cosine(a, b):
    return float(a @ b / a.norm() / b.norm())


@pytest.mark.parametrize("mse", [0.0, 3.0])
def test_cge_on_the_latent_agrees_with_backpropagation(parts, mse):
    exact, loss, _ = gradient(parts, by_backprop, mse)
    found, same, asked_for = gradient(
        parts, lambda b, d: by_queries(b, d, DensePullback(5e-3, "central")), mse
    )
    assert cosine(found, exact) >= 0.9999
    assert same == pytest.approx(loss, rel=1e-12)
    assert asked_for == BATCH * (1 + 2 * LATENT)


def test_cge_on_the_latent_order(parts):
    """The error of two-sided differences falls as mu^2."""
    exact, _, _ = gradient(parts, by_backprop)
    errors = []
    for mu in (8e-2, 4e-2, 2e-2):
        pullback = DensePullback(mu, "central")
        found, _, _ = gradient(parts, lambda b, d, way=pullback: by_queries(b, d, way))
        errors.append(float((found - exact).norm()))
    for first, second in pairwise(errors):
        assert first / second == pytest.approx(4, rel=0.05)


def test_rge_at_the_classifiers_input_unbiased(parts, gen):
    _, _, classifier, x = parts
    box = BlackBox(classifier, CLASSES, Ledger())
    targets = torch.arange(BATCH) % CLASSES
    image = x.clone().requires_grad_()
    by_backprop(box, nn.Identity())(image, targets).sum().backward()
    exact, terms = image.grad, []
    for _ in range(300):
        pullback = RandomPullback(gen, 4, 1e-3, "central")
        image = x.clone().requires_grad_()
        by_queries(box, nn.Identity(), pullback)(image, targets).sum().backward()
        terms.append(image.grad)
    drawn = torch.stack(terms)
    error = drawn.std(dim=0) / len(terms) ** 0.5
    off = (drawn.mean(dim=0) - exact) / error
    assert float(off.abs().max()) < 4.5
    assert float(off.square().mean()) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("way", ["cge", "rge", "none"])
def test_nothing_is_backpropagated_through_the_black_box(parts, gen, way):
    encoder, decoder, classifier, x = parts

    def guarded(images):
        return classifier(NoBackward.apply(images))

    box = BlackBox(guarded, CLASSES, Ledger())
    targets = torch.arange(BATCH) % CLASSES
    if way == "none":
        assert not entropies_of(box.scores, decoder)(encoder(x), targets).requires_grad
        return
    pullback = DensePullback(1e-3, "central") if way == "cge" else RandomPullback(gen, 2, 1e-3)
    by_queries(box, decoder, pullback)(encoder(x), targets).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    with pytest.raises(AssertionError, match="back-propagated"):
        by_backprop(BlackBox(guarded, CLASSES, Ledger()), decoder)(
            encoder(x), targets
        ).sum().backward()
