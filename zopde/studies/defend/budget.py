"""How many images a training asks the classifier about, and how long it may be for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from zopde.errors import InputError
from zopde.studies.defend.problem import Problem
from zopde.studies.defend.settings import METHODS, Method
from zopde.studies.scores import queries_of


@dataclass(frozen=True)
class Cost:
    """The queries of one method's training; a query is an image that the classifier sees.

    Args:
        each: For one image of a batch: its label, its loss, its gradient.
        score: For one image's scores.
        images: Training images.
        batch: Of them at a time.
        watch: Looks at the watched images before the last one.
        watched: How many there are.
        scoring: For the layers' scores, once.
    """

    each: int
    score: int
    images: int
    batch: int
    watch: int
    watched: int
    scoring: int

    @classmethod
    def of(cls, problem: Problem, method: Method) -> Self:
        """What a method of a run costs."""
        config = problem.config
        zo, training, images = config.zo, config.training, len(problem.data.train)
        score = config.classifier.votes if config.classifier.answers == "labels" else 1
        sides = 2 if zo.scheme == "central" else 1
        asked = {
            "backprop": 1,
            "rge": 1 + sides * zo.directions,
            "cge": 1 + sides * config.defence.latent,
            "weights": (1 + weights_of(problem))
            if zo.scheme_weights == "forward"
            else 2 * weights_of(problem),
        }
        scoring = 0
        if method.gradient == "weights":
            losses = queries_of(zo.score, zo.score_directions)
            scoring = min(training.batch, images) * (1 + losses * score)
        return cls(
            each=1 + asked[method.gradient] * score,
            score=score,
            images=images,
            batch=training.batch,
            watch=training.watch,
            watched=min(training.watch_images, images),
            scoring=scoring,
        )

    def total(self, iterations: int) -> int:
        """Queries of a training of that length, exactly."""
        every = self.every(iterations)
        looks = -(-iterations // every) + 1
        per_epoch = -(-self.images // self.batch)
        epochs, rest = divmod(iterations, per_epoch)
        seen = epochs * self.images + min(rest * self.batch, self.images)
        return self.scoring + self.watched * (1 + looks * self.score) + seen * self.each

    def every(self, iterations: int) -> int:
        """Iterations between two looks."""
        return max(1, -(-iterations // self.watch))

    def affordable(self, budget: int) -> int:
        """The most iterations that a budget pays for; 0 where it pays for none."""
        low, high = 0, budget // self.each + 1  # an image of a batch costs `each` at least
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._bound(middle) <= budget else (low, middle)
        return low

    def _bound(self, iterations: int) -> int:
        """`total`, with as many looks as there may be: it grows with the iterations."""
        seen = self.total(iterations) - self.total(0)
        looks = -(-iterations // self.every(iterations))
        return self.total(0) + seen + (self.watch - looks) * self.watched * self.score


def weights_of(problem: Problem) -> int:
    """Weights that DeepZero asks for at a time."""
    sizes, channels = problem.config.defence, problem.data.channels
    inner = max(0, sizes.depth - 2) * sizes.width**2
    most = 9 * (inner + 2 * channels * sizes.width)
    return min(problem.config.zo.weights, most)


def iterations_of(problem: Problem, name: str) -> int:
    """Updates that a method makes: what its budget pays for, or as many as are set.

    Raises:
        InputError: If the budget pays for none.
    """
    method, training = METHODS[name], problem.config.training
    if not method.trained:
        return 0
    if not method.zeroth_order:
        return training.iterations
    cost = Cost.of(problem, method)
    found = cost.affordable(training.queries)
    if not found:
        raise InputError(
            "training.queries",
            got=training.queries,
            expected=f"{cost.total(1):,} at least, for one update of {name}",
            remedy="fewer zo.directions, zo.weights or training.batch cost less",
        )
    return found
