"""How good the gradients of a run are: which labels are looked at, at what price, what is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, final

from jaxtyping import Bool
from torch import Tensor

from zopde.blackbox import CountedSolver
from zopde.contracts import Objective
from zopde.files import read_rows, reading
from zopde.sparsity import Masks
from zopde.studies.correct.counted import bare_gradient
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.looks import AGAIN, add_look
from zopde.studies.correct.problem import Opened
from zopde.training import (
    EvolutionStrategy,
    ForwardGradient,
    GradientSource,
    ZerothOrder,
)
from zopde.training.quality import EVALUATIONS, Quality, Rated

FILE = "gradient.csv"
FIGURES = ("cosine", "error", "variance")
_FAR = 2**20  # iterations away, or seeds: where no training comes
_SHOWN = 4  # looks in a line


@dataclass(frozen=True)
class Rating:
    """The looks at the gradients of one label in a training, and what they take."""

    looks: int  # 0 for a label without any
    evaluations: int  # of the loss, in a look, that tell the exact gradient
    draws: bool  # whether the estimate draws, and a look takes it again

    def cost(self, evaluation: int, gradient: int) -> int:
        """Of all looks, where an evaluation and a gradient of the label cost so much."""
        return self.looks * (self.evaluations * evaluation + self.draws * gradient)


def rating_of(opened: Opened, name: str) -> Rating:
    """The looks at a label; a label's start has none."""
    label, every = LABELS.get(name), opened.training.look_every
    if label is None or not (label.estimates and every):
        return Rating(0, 0, draws=False)
    looks = -(-opened.training.iterations // every)
    if name in opened.cuts:
        draws = opened.cuts[name].way == "random"
    else:
        draws = label.gradient in ("zo", "forward") or (label.gradient == "es" and _sized(opened))
    evaluations = EVALUATIONS if opened.problem.twin is None else 1
    return Rating(looks, evaluations, draws)


def _sized(opened: Opened) -> bool:
    """Whether the length of the gradient of ES means anything."""
    return opened.evolution.shaping == "none"


def forward_steps(opened: Opened) -> int:
    """Solver steps of an evaluation of the loss of a batch."""
    problem, training = opened.problem, opened.training
    batch = training.windows(problem, 0).batch(0).batch
    return bare_gradient(problem.injection, training.unroll, batch, 0.0, problem.every).steps


def rated(
    opened: Opened, name: str, source: GradientSource, seed: int, path: Path
) -> tuple[Rated, CountedSolver | None]:
    """The source of a label's gradients, looked at, and the twin that tells the exact ones.

    What looks find lies at `path`.
    """
    problem, schedule = opened.problem, opened.training
    windows, twin, exact_at = schedule.windows(problem, seed), None, None
    if problem.twin is not None:
        twin = CountedSolver(problem.twin)

        def exact_at(iteration: int) -> Objective:
            return opened.objective(windows, twin, seed, iteration, schedule)

    again = _redrawn(source) if rating_of(opened, name).draws else None
    sized = LABELS[name].gradient != "es" or _sized(opened)
    tell = partial(add_look, path)
    return Rated(source, schedule.look_every, tell, seed, exact_at, again, sized), twin


def _redrawn(source: GradientSource) -> GradientSource:
    """The same source by other draws; products from random directions draw on by themselves.

    It shares the oracles of the training, which go by the iteration: neither is verified twice.
    """
    if isinstance(source, ZerothOrder):
        return replace(source, masks=_Later(source.masks))
    if isinstance(source, EvolutionStrategy | ForwardGradient):
        return replace(source, seed=source.seed + _FAR)
    return source


@final
@dataclass(frozen=True)
class _Later:
    """The masks of iterations far off."""

    inner: Masks

    @property
    def active(self) -> int:
        """See `Masks`."""
        return self.inner.active

    def mask(self, iteration: int) -> Bool[Tensor, " d"]:
        """See `Masks`."""
        return self.inner.mask(iteration + _FAR)


def read_qualities(path: Path) -> list[Quality]:
    """What looks found; none where there is no file."""
    if not path.exists():
        return []
    with reading("file", path, "what the run wrote", AGAIN):
        _, *rows = read_rows(path)
        return [
            Quality(int(i), float(c), float(e), float(v), int(q), r) for i, c, e, v, q, r in rows
        ]


def said(looks: Sequence[Quality]) -> str:
    """The cosines of a training in a line; of many looks some, the last among them."""
    stride = -(-len(looks) // _SHOWN)
    shown = list(looks[::-1][::stride])[::-1]
    first, *others = [f"{look.cosine:.2f} at {look.iteration}" for look in shown]
    first = first.replace(" at ", " at iteration ")
    by = "of the twin" if looks[0].reference == "twin" else "by differences"
    return f"cosine with the exact gradient {', '.join([first, *others])} ({by})"


def means(looks: Iterable[Quality]) -> dict[str, float | None]:
    """The mean of each figure over looks; None where none knows it."""
    rows = list(looks)

    def mean(name: str) -> float | None:
        known = [v for row in rows if math.isfinite(v := getattr(row, name))]
        return fmean(known) if known else None

    return {name: mean(name) for name in FIGURES}


def by_label(results: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, float | None]]:
    """Label -> means over looks and seeds, of those that were looked at."""
    found = {k: [look for one in of for look in one.qualities] for k, of in results.items()}
    return {label: means(looks) for label, looks in found.items() if looks}
