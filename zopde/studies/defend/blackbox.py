"""A classifier that gives answers and nothing else, and the ledger of its queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.blackbox import Store
from zopde.errors import ClassifierError, InputError, SolverError, first_line
from zopde.files import key_of
from zopde.seeding import generator
from zopde.studies.classifiers import Classifier

Answers = Literal["logits", "probabilities", "labels"]
_LEAST = 1e-12  # probability, so that its logarithm exists
_DIGITS = 1e-5  # what a sum of shares is off 1 by
_ROUNDED = 0.05  # likewise, where they have few digits


class BudgetSpentError(ClassifierError):
    """The next queries would cost more than may be spent."""


@final
@dataclass
class Ledger:
    """Counts the queries of a classifier, the images that it sees, and ends when they are spent."""

    price: float = 0.0  # of one query, in any currency
    budget: int = 0  # most queries; 0: any number
    queries: int = 0  # so far

    @property
    def cost(self) -> float:
        """In the currency of the price."""
        return self.price * self.queries

    def spend(self, images: int) -> None:
        """Enter queries before they are made; none, if they are more than the budget leaves."""
        if self.budget and self.queries + images > self.budget:
            raise BudgetSpentError(
                f"the budget of {self.budget:,} queries leaves {self.budget - self.queries:,}, "
                f"{images:,} are needed"
            )
        self.queries += images


@final
@dataclass(frozen=True)
class BlackBox:
    """Sends images to a classifier, keeps the ledger, and makes log-scores of its answers.

    logits z: z.   probabilities p: log p.   labels: the share of votes,

        s_c(x) = log [(v_c + 1/2) / (m + C/2)],   v_c = #{j <= m : f(x + tau e_j) = c}

    with the same m draws e_j ~ N(0, I) for every image: a label alone is piecewise constant, its
    differences vanish, and only averaged over noise does it say which way is better. That takes
    m queries for each score, and `mu` of the order of tau; a smaller one again meets steps.

    Raises:
        InputError: If answers have another shape than announced, or are of another kind:
            probabilities are in [0, 1] and add up to 1, logits do not.
    """

    classifier: Classifier
    classes: int  # C
    ledger: Ledger  # where every query is entered
    answers: Answers = "logits"  # what the classifier gives
    votes: int = 0  # m, for labels
    vote_sigma: float = 0.1  # tau, in the units of the pixels
    # Where answers are kept; what is there takes no query, and is not entered
    store: Store | None = None
    identity: str = ""  # who the classifier is, for the store
    at_once: int = 8192  # images of a call at most

    def __post_init__(self) -> None:
        check_votes(self.answers, self.votes)

    @torch.no_grad()
    def labels(self, images: Float[Tensor, "n channel y x"]) -> Int[Tensor, " n"]:
        """What the classifier takes each image for; n queries."""
        answer = self._answer(images)
        return answer.long().flatten() if self.answers == "labels" else answer.argmax(dim=1)

    @torch.no_grad()
    def scores(self, images: Float[Tensor, "n channel y x"]) -> Float[Tensor, "n class"]:
        """Log-scores, without a graph; n queries, for labels n times the votes."""
        if self.answers == "labels":
            return self._voted(images)
        return self._log_scores(self._answer(images))

    def scores_with_graph(self, images: Float[Tensor, "n channel y x"]) -> Float[Tensor, "n class"]:
        """Log-scores with the classifier's own graph: for upper bounds, not for a black box."""
        self.ledger.spend(len(images))
        return self._log_scores(self.classifier(images))

    def _log_scores(self, answer: Tensor) -> Tensor:
        return answer.clamp_min(_LEAST).log() if self.answers == "probabilities" else answer

    def _voted(self, images: Tensor) -> Tensor:
        draw = generator(0, "votes")
        noise = torch.randn(self.votes, *images.shape[1:], generator=draw).to(images)
        votes = images.new_full((len(images), self.classes), 0.5)
        for shift in noise:
            labels = self._answer(images + self.vote_sigma * shift).long().flatten()
            votes[torch.arange(len(images)), labels] += 1
        return (votes / (self.votes + self.classes / 2)).log()

    def _answer(self, images: Tensor) -> Tensor:
        if self.store is None:
            return self._query(images)
        keys = [key_of(self.identity, image) for image in images]
        width = 1 if self.answers == "labels" else self.classes
        known = {k: row for k, row in self.store.read(keys).items() if len(row) == 8 * width}
        missing = [i for i, key in enumerate(keys) if key not in known]
        if missing:
            rows = self._query(images[missing]).double().view(-1, width).cpu()
            new = {keys[i]: row.numpy().tobytes() for i, row in zip(missing, rows, strict=True)}
            self.store.write(new.items())
            known |= new
        whole = bytearray(b"".join(known[key] for key in keys))
        return torch.frombuffer(whole, dtype=torch.float64).view(-1, width).to(images)

    def _query(self, images: Tensor) -> Tensor:
        answers = []
        for part in images.split(self.at_once):
            self.ledger.spend(len(part))
            try:
                answer = torch.as_tensor(self.classifier(part)).detach()
            except SolverError:
                raise
            except Exception as error:  # a user's classifier may raise anything
                raise ClassifierError(f"{type(error).__name__}: {first_line(error)}") from error
            self._check(answer, len(part))
            answers.append(answer.to(images))
        return torch.cat(answers) if answers else images.new_zeros(0, self.classes)

    def _check(self, answer: Tensor, count: int) -> None:
        labels = self.answers == "labels"
        shape = (count,) if labels else (count, self.classes)
        if tuple(answer.shape) != shape:
            got, expected = (
                f"an answer of shape {tuple(answer.shape)}",
                f"{self.answers} of shape {shape}",
            )
            remedy = f"classifier.answers is one of {list(get_args(Answers))}"
            raise InputError("classifier", got=got, expected=expected, remedy=remedy)
        bad = labels and bool(((answer < 0) | (answer >= self.classes)).any())
        if bad or not bool(answer.double().isfinite().all()):
            raise ClassifierError(f"{self.answers} out of range or not finite")
        if not labels:
            self._check_kind(answer.double())

    def _check_kind(self, answer: Float[Tensor, "n class"]) -> None:
        """Refuse logits that were announced as probabilities, and probabilities as logits."""
        off = float((answer.sum(dim=1) - 1).abs().max())
        within = bool(((answer >= -_DIGITS) & (answer <= 1 + _DIGITS)).all())
        if self.answers == "probabilities" and not (within and off <= _ROUNDED):
            got = f"answers from {float(answer.min()):.3g} to {float(answer.max()):.3g}, of which "
            got += f"the sum over the classes is off 1 by {off:.2g}"
            remedy = "scores of any other kind are classifier.answers=logits"
            raise InputError("classifier", got=got, expected="probabilities", remedy=remedy)
        if self.answers == "logits" and within and off <= _DIGITS:
            got, remedy = "numbers from 0 to 1 whose sum is 1", "classifier.answers=probabilities"
            raise InputError("classifier", got=got, expected="logits", remedy=remedy)


def check_votes(answers: Answers, votes: int) -> None:
    """Require votes where there are labels only."""
    if answers == "labels" and votes < 2:
        expected = "2 or more where the classifier answers labels only"
        remedy = "a label alone has no slope: set classifier.votes, such as 16"
        raise InputError("classifier.votes", got=votes, expected=expected, remedy=remedy)
