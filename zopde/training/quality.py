"""How good a gradient is: looks that compare an estimate with the exact gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zopde.contracts import Objective
from zopde.errors import SolverError
from zopde.oracle.coordinates import Coordinates, from_reals, reals
from zopde.oracle.state import Replaced
from zopde.oracle.verify import aside, resolution
from zopde.seeding import generator
from zopde.training.descent import Gradient, GradientSource
from zopde.training.signal import slope_of

_DIRECTIONS = 2  # orthogonal to the gradient, along which the loss is asked
_STEP = 1e-3  # of the weights' norm: how far a difference moves them
_DROWNED = 1 / 3  # of the exact gradient: more rounding than this, and nothing is known
EVALUATIONS = 2 * (_DIRECTIONS + 1)  # of the loss, for the differences of one look


class Quality(NamedTuple):
    """What a look at a gradient found; a row of its file. NaN stands for what is not known."""

    iteration: int  # counted from 0
    cosine: float  # of the angle to the exact gradient g*: 1 is perfect
    error: float  # |g - g*| / |g*|: 0 is perfect
    variance: float  # over the estimate's own draws, E |g - E g|^2 / |g*|^2
    queries: int  # evaluations of the objective that the estimate took
    reference: str  # what told the exact gradient, "twin" or "differences"


class _Exact(NamedTuple):
    """What is known of the exact gradient g*."""

    square: float  # |g*|^2
    along: float  # <g, g*>, g the estimate
    reference: str = "differences"  # or "twin"


@final
@dataclass
class Rated:
    """Passes another source's gradient on, and now and then measures how good it is.

    With g the estimate and g* the exact gradient of the same objective at the same weights:

        cosine = <g, g*> / (|g| |g*|),   error = |g - g*| / |g*|,
        variance = |g - g'|^2 / (2 |g*|^2),   g' an estimate by other draws

    Where there is a differentiable twin, g* comes by back-propagation through it. Without one, or
    with a loss that has no gradient, the loss is asked at 2 (q + 1) moved weights, q = 2: central
    differences over 1e-3 |w|, w all trained weights, along the unit direction of g and along q
    random ones that are orthogonal to g and to each other. With the slopes s_g and s_j, and d
    weights,

        <g, g*> = |g| s_g,   |g*|^2 = s_g^2 + (d - 1) / q sum_j s_j^2

    The second is an estimate. For an exact g all s_j are 0, and so is the noise. Otherwise the part
    of g* across g, squared, is measured with a standard deviation of itself: in nine looks of ten
    it comes out between 0.05 and 3 times as large as it is. So a true cosine of 0.9 may appear as
    0.77 or 0.99, one of 0.5 as 0.32 or 0.93. Only a mean over looks tells more; the sign and what
    is near 1 or 0 can be trusted. It fails where the rounding of the loss drowns g*: if eps |loss|
    sqrt(d - 1) over the step is more than a third of |g*|, nothing is said (NaN).

    A look comes after the gradient, at the same weights and with the same windows, and changes
    nothing: gradient, buffers and random streams are put back. A `Tally` counts its solver steps as
    "checking". Where a loss or the gradient is not finite, or a step fails, nothing is told.
    Queries of a look: one of the twin, or 2 (q + 1); and those of `again`.
    """

    inner: GradientSource  # the other source
    every: int  # iterations from one look to the next
    tell: Callable[[Quality], None]  # told what a look found
    seed: int  # decides the directions of differences, together with the iteration
    # Iteration -> the objective by a differentiable twin; None: differences tell
    exact_at: Callable[[int], Objective] | None = None
    # The same estimate by other draws, masks of weights included; None where it draws nothing
    again: GradientSource | None = None
    # Whether the length of the gradient means anything; that of shaped losses does not, and then
    # neither do error and variance
    sized: bool = True
    evaluations: int = field(default=0, init=False)  # of the objective, in all looks so far

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """At the inner source's price."""
        measured = self.inner(network, objective, iteration)
        if iteration % self.every == 0:
            # In this thread, which knows that steps are counted apart.
            here = torch.autograd.set_multithreading_enabled(False)
            with suppress(SolverError), aside(), _as_it_was(network), here:
                self._look(network, objective, iteration, measured.queries)
        return measured

    def _look(self, network: nn.Module, objective: Objective, iteration: int, queries: int) -> None:
        found = _gradient_in(network)
        if not bool(found.isfinite().all()):
            return
        exact = self._exact(network, objective, iteration, found)
        if exact is None:
            return
        off = max(0.0, float(found @ found) - 2 * exact.along + exact.square)
        error, variance = math.sqrt(_over(off, exact.square)), math.nan
        if self.again:
            self.evaluations += self.again(network, objective, iteration).queries
            moved = (found - _gradient_in(network)).square().sum()
            variance = _over(float(moved) / 2, exact.square)
        cosine = _over(exact.along, float(found.norm()) * math.sqrt(exact.square))
        if not self.sized:
            error = variance = math.nan
        self.tell(Quality(iteration, cosine, error, variance, queries, exact.reference))

    def _exact(
        self, network: nn.Module, objective: Objective, iteration: int, found: Tensor
    ) -> _Exact | None:
        """By the twin, or by differences; None where a loss is not finite."""
        if self.exact_at is not None:
            self.evaluations += 1
            loss = self.exact_at(iteration)(network, 1)[0]
            if loss.requires_grad:  # not so with a judge that gives plain numbers
                exact = slope_of(loss, network)
                if exact is None or not bool(exact.isfinite().all()):
                    return None
                return _Exact(float(exact @ exact), float(exact @ found.to(exact)), "twin")
        self.evaluations += EVALUATIONS
        draw = generator(self.seed, "quality", iteration)
        return _by_differences(network, objective, found, draw)


@torch.no_grad()
def _by_differences(
    network: nn.Module, objective: Objective, found: Float[Tensor, " d"], draw: torch.Generator
) -> _Exact | None:
    """Ask the loss along `found` and across it; NaN where rounding drowns what it says."""
    if not bool(found.any()):
        return _Exact(math.nan, math.nan)
    coordinates, replaced = Coordinates(network), Replaced(network)
    names = [part.name for part in coordinates.slices]
    weights = torch.cat([reals(p.detach()).flatten() for p in _weights(network)])
    step = _STEP * float(weights.double().norm()) or _STEP
    others = torch.randn(min(_DIRECTIONS, len(found) - 1), len(found), generator=draw)
    rows = torch.cat([found[None].cpu(), others.double()])
    along = torch.linalg.qr(rows.T)[0].T.to(weights)
    along[0] = found / found.norm()  # whose sign the factorisation may change

    def loss_at(move: Tensor) -> float:
        moved = {
            name: p.detach() + from_reals(part, p)
            for name, (p, part) in zip(names, coordinates.parts("move", move), strict=True)
        }
        return float(objective(partial(replaced, moved), 1)[0])

    losses = [(loss_at(step * row), loss_at(-step * row)) for row in along]
    slopes = [(ahead - behind) / (2 * step) for ahead, behind in losses]
    if not all(map(math.isfinite, slopes)):
        return None
    across = (len(found) - 1) * sum(s**2 for s in slopes[1:]) / max(1, len(others))
    square = slopes[0] ** 2 + across
    size = max(abs(loss) for pair in losses for loss in pair)
    rounding = resolution(network) * size / step * math.sqrt(len(found) - 1)
    if rounding > _DROWNED * math.sqrt(square):
        return _Exact(math.nan, math.nan)
    return _Exact(square, slopes[0] * float(found.norm()))


def _over(value: float, size: float) -> float:
    """Their quotient; NaN where the size is 0 or not known."""
    return value / size if size > 0 else math.nan


def _weights(network: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in network.parameters() if weight.requires_grad]


def _gradient_in(network: nn.Module) -> Float[Tensor, " d"]:
    """What `.grad` of all trainable weights holds, in double precision."""
    parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in _weights(network)]
    return torch.cat([reals(part).flatten() for part in parts]).double()


@contextmanager
def _as_it_was(network: nn.Module) -> Iterator[None]:
    """Afterwards a network has the gradient and the buffers that it had before."""
    grads = [(weight, weight.grad) for weight in _weights(network)]
    grads = [(weight, None if grad is None else grad.clone()) for weight, grad in grads]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for weight, grad in grads:
            weight.grad = grad
        for buffer, value in buffers:  # in place: oracles know them by their identity
            buffer.copy_(value)
