"""Comparing a product with the solver: a directional derivative, asked for now and then."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from zopde.contracts import State, counted_apart
from zopde.interface.vjp import Probing, Pullback, Step, Varied, differences, failed
from zopde.zo.rge import rademacher

_COUNTS = 1e-2  # of the largest change of a channel, in units of its scale: what a watch looks at
_BADLY = 0.5  # a cosine that is worth a warning
Channels = Float[Tensor, "channel entries"]


def directional(
    step: Step, cotangent: State, probing: Probing, generator: Generator
) -> tuple[int, Callable[[Tensor], float]]:
    """Ask the solver for <v, J d> at a random state of the batch, d random, +1 and -1.

    Queries: two solver steps, counted apart, for a central difference in units of the scale.

    Returns:
        The state, and a function: J^T v there -> by how much of its size it is off, beyond what
        curvature and the digits of the dtype explain; 0 where they explain it all.
    """
    row = int(torch.randint(len(step.point), (1,), generator=generator))
    single, v, units = step.at(row), cotangent[row].double(), probing.units(step)[row]
    signs = rademacher(1, single.point.numel(), generator, torch.float32).to(single.point)
    d, zero = units * signs.view_as(single.point), torch.zeros(1, dtype=torch.long)
    with counted_apart():
        sides = [s * differences(single, zero, s * d, probing.mu) for s in (1, -1)]
    ahead, behind = (float((v * side[0]).sum()) for side in sides)
    digits = torch.finfo(step.stepped.dtype).eps * float((v * single.stepped[0]).norm())
    noise = 3 * abs(ahead - behind) + 8 * digits / probing.mu

    def off(product: Tensor) -> float:
        slope, product = (ahead + behind) / 2, product.double()
        size = max(float((units * product).norm()), abs(slope))
        beyond = abs(float((product * d[0]).sum()) - slope) - noise
        return beyond / size if beyond > 0 else 0.0  # NaN, where a step failed, tells nothing

    return row, off


@dataclass(frozen=True)
class Agreement:
    """How well a derivative that was measured or learned before fits the solver's of now."""

    cosine: float  # 1 is perfect; the least over the channels that change
    error: float  # relative, 0 is perfect; the largest over the channels


def compare(
    step: Step, push: Callable[[Varied], State], probing: Probing, generator: Generator
) -> Agreement | None:
    """Compare N d, which `push` gives, with the solver's own J d along a random direction d.

        cosine = cos(N d - d, J d - d)        error = |N d - J d| / |J d|

    d is +1 and -1 in units of the scale; J d is a finite difference. Both figures are taken
    channel by channel, in standard deviations, so that a channel of small numbers counts. What a
    step leaves of its state as it is would agree by itself, so the cosine is without it (of the
    forcing nothing is left). A channel that changes by less than 1 % of what the others do has no
    cosine, and its error is relative to that 1 %. Queries: one solver step for each state of the
    step, two with the central scheme.

    Args:
        step: Where, and of which variable; it may be a batch.
        push: (batch, varied_channel, *space) -> N d, of the shape of `step.stepped`.
        probing: How J d is measured.
        generator: Source of d.

    Returns:
        None where the solver's step failed, which tells nothing.
    """
    signs = torch.randint(0, 2, step.point.shape, generator=generator)
    d = step.solver.grid.filled((2 * signs - 1).to(step.point) * probing.units(step))
    rows = torch.arange(len(d), device=d.device)
    measured = differences(step, rows, d, probing.mu, probing.scheme)
    if failed(measured).any():
        return None
    pushed = push(d)
    if failed(pushed).any():
        return Agreement(-1.0, math.inf)
    own = probing if step.variable == "state" else replace(probing, scale=None)
    units = own.units(replace(step, variable="state"))
    kept = d if step.variable == "state" else torch.zeros_like(measured)
    exact, found, kept = (
        (values / units).transpose(0, 1).flatten(1).double() for values in (measured, pushed, kept)
    )
    return Agreement(_least_cosine(found - kept, exact - kept), _largest_error(found, exact))


def _least_cosine(left: Channels, right: Channels) -> float:
    """The least cosine over the channels that count; 1 where nothing changes at all."""
    sizes = torch.maximum(left.norm(dim=1), right.norm(dim=1))
    counts = sizes > _COUNTS * sizes.max()
    cosines = torch.cosine_similarity(left, right, dim=1)[counts]
    return float(cosines.min()) if len(cosines) else 1.0


def _largest_error(found: Channels, exact: Channels) -> float:
    off, sizes = (found - exact).norm(dim=1), exact.norm(dim=1)
    errors = off / torch.maximum(sizes, _COUNTS * sizes.max())
    return float(torch.where(off == 0, 0.0, errors).max())  # 0 / 0 where nothing changes at all


@final
@dataclass
class Watch:
    """Looks now and then whether the derivative in use fits the solver; see `compare`.

    A look is at one state of the batch, drawn at random. A state where the cosine is below `below`,
    or the error above `above`, is handed to `mend`. Where that can do nothing, `fallback` gives
    this product and all that follow, until a later look finds agreement. With `below` 0, a cosine
    below 0.5 makes a warning. A `Tally` counts the solver steps of a look apart, as "checking".

    Example:
        >>> Watch(torch.Generator().manual_seed(0), below=0.99, at=range(0, 1000, 50)).seen
        []
    """

    generator: Generator  # source of states and directions
    below: float = 0.0  # the cosine under which something is done; 0 or less: nothing is done
    at: Container[int] = range(0, sys.maxsize, 10)  # numbers of the products to look at
    # What mends the derivative at a step of one state, such as `Bank.mend`; whether it could
    mend: Callable[[Step], bool] | None = None
    fallback: Pullback | None = None  # what else gives products; None: nothing
    serving: bool = False  # whether the fallback gives them now
    above: float = math.inf  # the relative error over which something is done
    seen: list[Agreement] = field(default_factory=list)  # every look so far
    _products: int = field(default=0, init=False)  # that it was told of

    def instead(
        self, step: Step, push: Callable[[Step, Varied], State], probing: Probing
    ) -> Pullback | None:
        """Look, if this product is one to look at; what gives it in place of the derivative in use.

        Args:
            step: Where the product is taken.
            push: (step of one state, d) -> N d there.
            probing: How J d is measured.
        """
        number, self._products = self._products, self._products + 1
        if number in self.at:
            self._look(step, push, probing)
        return self.fallback if self.serving else None

    def _look(self, step: Step, push: Callable[[Step, Varied], State], probing: Probing) -> None:
        row = int(torch.randint(len(step.point), (1,), generator=self.generator))
        single = step.at(row)
        with counted_apart():
            found = compare(single, partial(push, single), probing, self.generator)
        if found is None:
            return
        self.seen.append(found)
        fits = found.cosine >= self.below and found.error <= self.above
        mended = fits or (self.mend is not None and self.mend(single))
        self.serving = not mended and self.fallback is not None
        if self.below <= 0 and found.cosine < _BADLY:
            text = f"the derivative in use and the solver's agree {found.cosine:.2f} (a cosine) "
            warnings.warn(f"{text}at this state: see zopde.interface.Watch", stacklevel=4)
