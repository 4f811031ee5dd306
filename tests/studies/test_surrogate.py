"""A classifier that answers scores: an exact loss behind it, and a network that learns of it."""

import pytest
import torch
from torch import nn

from zopde.interface import DensePullback, RandomPullback
from zopde.interface.vjp import Probing
from zopde.nets import ScoreNet
from zopde.studies.defend.blackbox import BlackBox, Ledger
from zopde.studies.defend.loss import by_queries, by_scores, entropies_of
from zopde.studies.defend.surrogate import Learning, Surrogate, SurrogatePullback

CLASSES, BATCH = 4, 6
IDENTITY = nn.Identity()


@pytest.fixture
def linear(gen):
    """Logits that are linear in the pixels, images, and their targets."""
    weights = torch.randn(64, CLASSES, generator=gen)
    images = torch.rand(BATCH, 1, 8, 8, generator=gen)
    return (lambda x: x.flatten(1) @ weights), images, torch.arange(BATCH) % CLASSES


def black_box(classifier):
    return BlackBox(classifier, CLASSES, Ledger())


def gradient(entropies, images, targets):
    images = images.clone().requires_grad_()
    entropies(images, targets).sum().backward()
    return images.grad


def cosine(a, b):
    return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_the_loss_behind_scores_is_differentiated_exactly(linear):
    """At any mu, where the classifier is linear; differences of the loss bend with it."""
    classifier, images, targets = linear
    exact = gradient(entropies_of(classifier, IDENTITY), images, targets)
    found, errors = {}, {}
    for ask in (by_scores, by_queries):
        box = black_box(classifier)
        entropies = ask(box, IDENTITY, DensePullback(0.5, "forward", scale=1.0))
        found[ask] = gradient(entropies, images, targets)
        errors[ask] = float((found[ask] - exact).norm() / exact.norm())
        assert box.ledger.queries == BATCH * (1 + 64)
    assert errors[by_scores] < 1e-4
    assert errors[by_queries] > 100 * errors[by_scores]


def learned(classifier, gen, count=2000):
    surrogate = Surrogate(1, 8, CLASSES, 0, "cpu")
    images = torch.rand(count, 1, 8, 8, generator=gen)
    surrogate.begin(images, classifier(images))
    return surrogate


def pulled(surrogate, box, below, gen, said=()):
    random = RandomPullback(gen, 3, 1e-3, "central", scale=1.0)
    probing = Probing(1e-2, "forward")
    pullback = SurrogatePullback(surrogate, IDENTITY, probing, below, random, 0, said.append)
    return by_scores(box, IDENTITY, pullback)


def test_a_surrogates_slopes_are_the_classifiers(linear, gen):
    classifier, images, targets = linear
    box, said = black_box(classifier), []
    surrogate = learned(classifier, gen)
    found = gradient(pulled(surrogate, box, 0.5, gen, said), images, targets)
    exact = gradient(entropies_of(classifier, IDENTITY), images, targets)
    assert cosine(found, exact) > 0.7
    assert surrogate.agreement.cosine > 0.5
    assert box.ledger.queries == BATCH * (1 + 1)  # the answer, and one slope of each image
    assert not said


def test_a_surrogate_that_does_not_agree_gives_way_to_queries_and_says_so(linear, gen):
    """Until a check finds agreement; each batch is checked, and counted, and learned."""
    classifier, images, targets = linear
    box, said = black_box(classifier), []
    surrogate = learned(lambda x: -classifier(x), gen)
    state = gen.get_state()
    found = gradient(pulled(surrogate, box, 0.5, gen, said), images, targets)
    assert box.ledger.queries == BATCH * (1 + 1 + 2 * 3)
    assert len(said) == 1
    assert "queries take its place" in said[0]
    again = RandomPullback(gen.set_state(state), 3, 1e-3, "central", scale=1.0)
    same = gradient(by_scores(black_box(classifier), IDENTITY, again), images, targets)
    assert torch.equal(found, same)
    more = torch.rand(2000, 1, 8, 8, generator=gen)
    surrogate.begin(more, classifier(more))
    gradient(pulled(surrogate, box, 0.1, gen, said), images, targets)
    assert "its derivative is used again" in said[1]
    assert box.ledger.queries == BATCH * (2 + 8)


def test_what_a_surrogate_knows_is_kept_exact(linear, gen, tmp_path):
    """With the network beside it: answers, moments and checks; what is learned next is the same."""
    classifier, images, targets = linear
    first = learned(classifier, gen, 50)
    gradient(pulled(first, black_box(classifier), 0.1, gen, []), images, targets)
    torch.save(Learning(nn.Linear(2, 2), first).state_dict(), tmp_path / "state.pt")
    second = Surrogate(1, 8, CLASSES, 0, "cpu")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    Learning(nn.Linear(2, 2), second).load_state_dict(state)
    assert (second.trusted, second.agreement) == (first.trusted, first.agreement)
    for surrogate in (first, second):
        surrogate.learn(images, classifier(images))
    assert torch.equal(first.scores(images), second.scores(images))


@pytest.mark.parametrize("side", [8, 28, 32])
def test_scores_of_any_side(side):
    assert ScoreNet(3, side, 5, width=4)(torch.rand(2, 3, side, side)).shape == (2, 5)
