"""How many images a training shows the classifier, and how many updates that allows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from zopde.errors import InputError
from zopde.studies.defend.labels import LABELS, Gradient, Label

CHECK_EVERY = 10  # batches that a surrogate learns


@dataclass(frozen=True)
class Budget:
    """The queries of a run's trainings; a query is an image that the classifier sees."""

    queries: int  # what a label by queries may spend
    iterations: int  # updates of a label that back-propagates
    # Gradient -> evaluations of one image's scores, for its loss and gradient
    evaluations: Mapping[Gradient, int]
    differences: int  # evaluations of a difference
    score: int  # queries of one evaluation
    scoring: int  # evaluations of the loss that score the layers, once, for weights
    images: int  # training images
    batch: int  # of them at a time
    watch: int  # looks at the watched images before the last one
    watched: int  # how many there are
    first: int  # images whose answers a surrogate learns before the first update
    updates: int  # for every batch that the classifier sees, where there is a surrogate

    def total(self, label: Label, iterations: int) -> int:
        """Queries of a training of that length, exactly."""
        looks = -(-iterations // self.every(iterations)) + 1
        total = self.watched * (1 + looks * self.score)
        if label.gradient == "distilled":
            return total + self.images * self.score
        stride = self.updates if label.surrogate else 1
        batches = -(-iterations // stride)
        total += self._seen(batches, stride) * self._per_image(label)
        if label.surrogate:
            checked = self._seen(-(-batches // CHECK_EVERY), CHECK_EVERY * stride)
            total += (self.first + checked * self.differences) * self.score
        if label.gradient == "weights":
            total += min(self.batch, self.images) * (1 + self.scoring * self.score)
        return total

    def _seen(self, batches: int, stride: int) -> int:
        """Images of so many batches, `stride` apart; the last one of an epoch is smaller."""
        per_epoch = -(-self.images // self.batch)
        starts = [number * stride % per_epoch * self.batch for number in range(per_epoch)]
        sizes = [min(self.batch, self.images - start) for start in starts]
        periods, rest = divmod(batches, per_epoch)
        return periods * sum(sizes) + sum(sizes[:rest])

    def every(self, iterations: int) -> int:
        """Iterations between two looks."""
        return max(1, -(-iterations // self.watch))

    def iterations_of(self, name: str) -> int:
        """Updates of a label: what its budget pays for, one at least, or as many as are set.

        One that has a surrogate makes no more than are set.
        """
        label = LABELS[name]
        if not label.trained:
            return 0
        if not label.zeroth_order:
            return self.iterations
        most = self._most(label)
        if not most:
            expected = f"{self.total(label, 1):,} at least, for one update of {name}"
            remedy = "fewer zo.directions, zo.weights or training.batch cost less"
            got = self.queries
            raise InputError("training.queries", got=got, expected=expected, remedy=remedy)
        return most

    def _per_image(self, label: Label) -> int:
        """Of a batch: its label, its loss, its gradient."""
        return 1 + self.evaluations[label.gradient] * self.score

    def _most(self, label: Label) -> int:
        """The most iterations that the budget pays for; 0 where it pays for none."""

        def bound(iterations: int) -> int:
            # With as many looks as there may be, the queries grow with the iterations.
            looks = -(-iterations // self.every(iterations))
            total = self.total(label, iterations)
            return total + (self.watch - looks) * self.watched * self.score

        most = self.iterations if label.surrogate else self.queries // self._per_image(label)
        lengths = range(1, most + 1)
        return bisect_right(lengths, self.queries, key=bound)
