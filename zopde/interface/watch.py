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
_NOTHING = 0.2  # of a cotangent: the product of a mean that a step keeps is 0, and round-off
_BADLY = 0.5  # a cosine that is worth a warning
OFF = 0.03  # of a product's size: what it may be off in a direction
OTHER_STEPS = 1 / 4, 4.0  # times `mu`: where a derivative that was measured at `mu` is compared
Channels = Float[Tensor, "channel entries"]


@dataclass(frozen=True)
class _Line:
    """A random direction at one state of a step, +1 and -1 in units of the scale."""

    row: int
    single: Step
    v: Tensor  # the cotangent there
    units: Varied
    d: Varied
    mu: float

    def slopes(self, factor: float = 1.0) -> tuple[float, float]:
        """<v, J d> ahead and behind, at `factor` times the step: two solver steps."""
        zero, mu = torch.zeros(1, dtype=torch.long), factor * self.mu
        with counted_apart():
            sides = [s * differences(self.single, zero, s * self.d, mu) for s in (1, -1)]
        ahead, behind = (float((self.v * side[0]).sum()) for side in sides)
        return ahead, behind

    def along(self, product: Tensor) -> float:
        """<J^T v, d>, what the product at this state says of the direction."""
        return float((product.double() * self.d[0]).sum())

    def size(self, product: Tensor, slope: float) -> float:
        """The size of a product at this state, in units of the scale."""
        return max(float((self.units * product.double()).norm()), abs(slope))


def _line(step: Step, cotangent: State, probing: Probing, generator: Generator) -> _Line:
    row = int(torch.randint(len(step.point), (1,), generator=generator))
    single, units = step.at(row), probing.units(step)[row]
    signs = rademacher(1, single.point.numel(), generator, torch.float32).to(single.point)
    d = units * signs.view_as(single.point)
    return _Line(row, single, cotangent[row].double(), units, d, probing.mu)


def directional(
    step: Step, cotangent: State, probing: Probing, generator: Generator
) -> tuple[int, Callable[[Tensor], float]]:
    """Ask the solver for <v, J d> at a random state of the batch, d random, +1 and -1.

    Queries: two solver steps, counted apart, for a central difference in units of the scale.

    Returns:
        The state, and a function: J^T v there -> by how much of its size it is off, beyond what
        curvature and the digits of the dtype explain; 0 where they explain it all.
    """
    line = _line(step, cotangent, probing, generator)
    ahead, behind = line.slopes()
    slope = (ahead + behind) / 2
    stepped = line.single.stepped
    digits = torch.finfo(stepped.dtype).eps * float((line.v * stepped[0]).norm())
    noise = 3 * abs(ahead - behind) + 8 * digits / probing.mu

    def off(product: Tensor) -> float:
        beyond = abs(line.along(product) - slope) - noise
        # NaN, where a step failed, tells nothing.
        return beyond / line.size(product, slope) if beyond > 0 else 0.0

    return line.row, off


def at_other_steps(
    step: Step, cotangent: State, product: Varied, probing: Probing, generator: Generator
) -> tuple[float, str]:
    """Compare a product with the solver's derivative at smaller and at larger steps than its own.

    <v, J d> is asked for along a random direction by central differences, at a quarter of `mu` and
    at four times `mu`. Curvature spoils a product less at the one, rounding at the other: a product
    that agrees with neither is off. One by the state that is less than a fifth of the cotangent is
    measured against that. Queries: four solver steps of one state, counted apart.

    Returns:
        By how much of its size the product is off, the lesser of both; and a sentence that says
        which step to take where that is more than 3 %, else "".
    """
    line = _line(step, cotangent, probing, generator)
    near, far = (line.slopes(factor) for factor in OTHER_STEPS)
    mine = product[line.row]
    outputs = Probing(probing.mu).units(replace(line.single, variable="state"))[0]
    least = (_NOTHING if step.variable == "state" else _COUNTS) * float((line.v * outputs).norm())
    slopes = (sum(pair) / 2 for pair in (near, far))
    errors = [abs(line.along(mine) - s) / max(line.size(mine, s), least, 1e-300) for s in slopes]
    if not math.isfinite(sum(errors)):  # a step failed, which tells nothing
        return 0.0, ""
    text = f"a product with respect to the {step.variable} is off by {errors[0]:.1%} of its size, "
    text += f"compared at a quarter of mu, and by {errors[1]:.1%} at four times mu: "
    bends = abs(far[0] - far[1]) > abs(near[0] - near[1])
    text += "the solver bends within a step; give a smaller mu" * bends
    text += "its answers are rounded, or carry noise; give a larger mu" * (not bends)
    return min(errors), text * (min(errors) > OFF)


@dataclass(frozen=True)
class Agreement:
    """How well a derivative that was measured or learned before fits the solver's of now."""

    cosine: float  # 1 is perfect; the least over the channels that change
    error: float  # relative, 0 is perfect; the largest over the channels
    channel: int = 0  # of that error
    whole: float = math.inf  # the relative error of all channels together
    apart: float = 0.0  # by how much the solver's own answers at the two steps differ


def compare(
    step: Step, push: Callable[[Varied], State], probing: Probing, generator: Generator
) -> Agreement | None:
    """Compare N d, which `push` gives, with the solver's own J d along a random direction d.

        cosine = cos(N d - d, J d - d)        error = |N d - J d| / |J d|

    d is +1 and -1 in units of the scale; J d is a finite difference, at a quarter of `mu` and at
    four times `mu`, for what was measured at `mu` shares its curvature and rounding; the one that
    agrees better counts. Both figures are taken channel by channel, in standard deviations, so that
    a channel of small numbers counts. What a step leaves of its state as it is would agree by
    itself, so the cosine is without it (of the forcing nothing is left). A channel that changes by
    less than 1 % of what the others do has no cosine, and its error is relative to that 1 %.
    Queries: two solver steps for each state of the step, four with the central scheme.

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
    measured = [differences(step, rows, d, f * probing.mu, probing.scheme) for f in OTHER_STEPS]
    if any(failed(responses).any() for responses in measured):
        return None
    pushed = push(d)
    if failed(pushed).any():
        return Agreement(-1.0, math.inf)
    own = probing if step.variable == "state" else replace(probing, scale=None)
    units = own.units(replace(step, variable="state"))
    kept = d if step.variable == "state" else torch.zeros_like(pushed)
    near, far, found, kept = (
        (values / units).transpose(0, 1).flatten(1).double() for values in (*measured, pushed, kept)
    )
    exact = min(near, far, key=lambda responses: float(_errors(found, responses).max()))
    errors, cosine = _errors(found, exact), _least_cosine(found - kept, exact - kept)
    flat = ((a.flatten(), b.flatten()) for a, b in ((found, exact), (near, far)))
    whole, apart = (float(_errors(a[None], b[None])) for a, b in flat)
    return Agreement(cosine, float(errors.max()), int(errors.argmax()), whole, apart)


def _least_cosine(left: Channels, right: Channels) -> float:
    """The least cosine over the channels that count; 1 where nothing changes at all."""
    sizes = torch.maximum(left.norm(dim=1), right.norm(dim=1))
    counts = sizes > _COUNTS * sizes.max()
    cosines = torch.cosine_similarity(left, right, dim=1)[counts]
    return float(cosines.min()) if len(cosines) else 1.0


def _errors(found: Channels, exact: Channels) -> Float[Tensor, " channel"]:
    off, sizes = (found - exact).norm(dim=1), exact.norm(dim=1)
    errors = off / torch.maximum(sizes, _COUNTS * sizes.max())
    return torch.where(off == 0, 0.0, errors)  # 0 / 0 where nothing changes at all


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
