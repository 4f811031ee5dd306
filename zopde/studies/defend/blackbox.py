"""A classifier that answers queries and nothing else.

What a classifier that is paid by the query was asked.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.blackbox import Store
from zopde.errors import ClassifierError, InputError, SolverError, first_line
from zopde.files import key_of
from zopde.seeding import generator
from zopde.studies.classifiers import Classifier
from zopde.validate import check_choice, check_count, check_not_negative, check_positive


class BudgetSpentError(ClassifierError):
    """The next question would cost more than may be spent."""


@final
class Ledger:
    """Counts images that a classifier is asked about, and says when enough is enough.

    Args:
        price: Of one image, in any currency.
        budget: Most images that may be asked about; 0: any number.
        asked: How many were, before.

    Attributes:
        asked: Images so far.

    Raises:
        InputError: If a number is negative.
    """

    def __init__(self, price: float = 0.0, budget: int = 0, asked: int = 0) -> None:
        for name, value in (("price", price), ("budget", budget), ("asked", asked)):
            check_not_negative(name, value)
        self.price, self.budget, self.asked = price, budget, asked

    @property
    def cost(self) -> float:
        """In the currency of the price."""
        return self.price * self.asked

    def spend(self, images: int) -> None:
        """Enter a question, before it is asked.

        Raises:
            BudgetSpentError: If it is more than the budget leaves; nothing is entered then.
        """
        if self.budget and self.asked + images > self.budget:
            raise BudgetSpentError(
                f"the budget of {self.budget:,} queries leaves {self.budget - self.asked:,}, "
                f"{images:,} are needed"
            )
        self.asked += images


Answers = Literal["logits", "probabilities", "labels"]
ANSWERS: tuple[Answers, ...] = ("logits", "probabilities", "labels")

_LEAST = 1e-12  # probability, so that its logarithm exists


@final
class BlackBox:
    """Asks a classifier, keeps the ledger, and makes log-scores of what it says.

    logits z: z.   probabilities p: log p.   labels: the share of votes,

        s_c(x) = log [(v_c + 1/2) / (m + C/2)],   v_c = #{j <= m : f(x + tau e_j) = c}

    with the same m draws e_j ~ N(0, I) for every image: a label alone is piecewise constant, its
    differences vanish, and only averaged over noise does it say which way is better. That takes
    m queries for each score, and `mu` of the order of tau; a smaller one again meets steps.

    Args:
        classifier: Any callable.
        classes: C.
        ledger: Where every image that is asked about is entered.
        answers: What it answers: "logits", "probabilities" or "labels".
        votes: m, for labels.
        vote_sigma: tau, in the units of the pixels.
        store: Where answers are kept; what is there is not asked for again, nor entered.
        identity: Who the classifier is, for the store.
        at_once: Images of a call at most.

    Raises:
        InputError: On a setting out of range, and on labels without votes.
    """

    def __init__(
        self,
        classifier: Classifier,
        classes: int,
        ledger: Ledger,
        answers: Answers = "logits",
        votes: int = 0,
        vote_sigma: float = 0.1,
        store: Store | None = None,
        identity: str = "",
        at_once: int = 8192,
    ) -> None:
        check_choice("answers", answers, ANSWERS)
        check_count("at_once", at_once)
        check_positive("vote_sigma", vote_sigma)
        check_votes(answers, votes)
        self.classifier, self.classes, self.ledger = classifier, classes, ledger
        self._answers, self._votes, self._tau = answers, votes, vote_sigma
        self._store, self._identity, self._at_once = store, identity, at_once

    @property
    def per_score(self) -> int:
        """Queries of one image's scores."""
        return self._votes if self._answers == "labels" else 1

    @torch.no_grad()
    def labels(self, images: Float[Tensor, "n channel y x"]) -> Int[Tensor, " n"]:
        """What the classifier says; n queries."""
        said = self._ask(images)
        return said.long().flatten() if self._answers == "labels" else said.argmax(dim=1)

    @torch.no_grad()
    def scores(self, images: Float[Tensor, "n channel y x"]) -> Float[Tensor, "n class"]:
        """Log-scores, without a graph; `per_score` n queries."""
        if self._answers == "labels":
            return self._voted(images)
        said = self._ask(images)
        return said.clamp_min(_LEAST).log() if self._answers == "probabilities" else said

    def white(self, images: Float[Tensor, "n channel y x"]) -> Float[Tensor, "n class"]:
        """Log-scores with the classifier's own graph: for upper bounds, not for a black box."""
        self.ledger.spend(len(images))
        said: Tensor = self.classifier(images)
        return said.clamp_min(_LEAST).log() if self._answers == "probabilities" else said

    def _voted(self, images: Tensor) -> Tensor:
        draw = generator(0, "votes")
        noise = torch.randn(self._votes, *images.shape[1:], generator=draw).to(images)
        votes = images.new_full((len(images), self.classes), 0.5)
        for shift in noise:
            said = self._ask(images + self._tau * shift).long().flatten()
            votes[torch.arange(len(images)), said] += 1
        return (votes / (self._votes + self.classes / 2)).log()

    def _ask(self, images: Tensor) -> Tensor:
        if self._store is None:
            return self._fresh(images)
        keys = [key_of(self._identity, image) for image in images]
        known = self._store.read(keys)
        width = 1 if self._answers == "labels" else self.classes
        missing = [i for i, key in enumerate(keys) if len(known.get(key, b"")) != 8 * width]
        said = torch.empty(len(images), width, dtype=torch.float64)
        for i, key in enumerate(keys):
            if key in known and len(known[key]) == 8 * width:
                said[i] = torch.frombuffer(bytearray(known[key]), dtype=torch.float64)
        if missing:
            fresh = self._fresh(images[missing]).double().view(-1, width).cpu()
            said[missing] = fresh
            self._store.write(
                (keys[i], row.numpy().tobytes()) for i, row in zip(missing, fresh, strict=True)
            )
        return said.to(images)

    def _fresh(self, images: Tensor) -> Tensor:
        parts = []
        for part in images.split(self._at_once):
            self.ledger.spend(len(part))
            try:
                said = torch.as_tensor(self.classifier(part))
            except SolverError:
                raise
            except Exception as error:  # a user's classifier may raise anything
                raise ClassifierError(f"{type(error).__name__}: {first_line(error)}") from error
            parts.append(self._checked(said.detach(), len(part)).to(images))
        return torch.cat(parts) if parts else images.new_zeros(0, self.classes)

    def _checked(self, said: Tensor, count: int) -> Tensor:
        labels = self._answers == "labels"
        want = (count,) if labels else (count, self.classes)
        if tuple(said.shape) != want:
            raise InputError(
                "classifier",
                got=f"an answer of shape {tuple(said.shape)}",
                expected=f"{self._answers} of shape {want}",
                remedy=f"classifier.answers is one of {list(ANSWERS)}",
            )
        bad = labels and bool(((said < 0) | (said >= self.classes)).any())
        if bad or not bool(said.double().isfinite().all()):
            raise ClassifierError(f"{self._answers} out of range or not finite")
        return said


def check_votes(answers: Answers, votes: int) -> None:
    """Require votes where there are labels only.

    Raises:
        InputError: If there are none.
    """
    if answers == "labels" and votes < 2:
        raise InputError(
            "classifier.votes",
            got=votes,
            expected="2 or more where the classifier answers labels only",
            remedy="a label alone has no slope: set classifier.votes, such as 16",
        )
