"""Products of any kind, corrected by some queries: a projection onto a few directions."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import product
from math import prod
from typing import final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from zopde.contracts import CHECKING, State
from zopde.interface.identity import IdentityPullback
from zopde.interface.vjp import (
    Probing,
    Pullback,
    Scale,
    Step,
    Varied,
    failed,
    per_row,
    responses,
    without_failed,
)
from zopde.validate import check_not_negative, checked
from zopde.zo.cge import Scheme
from zopde.zo.rge import rademacher

Directions = Float[Tensor, "batch directions varied_channel *space"]


@final
class CorrectedPullback:
    """Corrects another product by queries, where the solver shows that it is off.

        J^T v  ~  w + (1/s) sum_k r_k u_k,     r_k = <v, J s u_k> - <w, s u_k>

    w is the product of `around`, s the scale of each entry's channel, u_1, .. orthonormal (to an
    entry's mean square of 1, against which sizes and products are taken). The correction is the
    error of w projected onto the directions, in units of the scale: up to mu and the solver's
    noise a product is never worse than w, and exact where there are as many directions as
    entries. It is biased towards w. An unroll multiplies what is left.

    Random directions remove about q / D of a squared error, D the number of entries: nothing,
    where D is large. So most are chosen (`chosen`): w itself, moved by one cell, its image under
    the step, all by channel and by region. They suit an error that is w filtered by a local
    stencil whose weights vary slowly; the rest, and the last one in any case, are random. Where w
    is off by little, they remove little (docs/ways.md has figures).

    Queries: q solver steps per state and step, twice as many with the central scheme. Randomness:
    the random directions. Probes that failed are left out. Source: control variates as in Arisaka
    and Li, ICML 2024, by projection in place of their average.

    Args:
        generator: Source of the random directions.
        directions: q, >= 0; those beyond D are not asked for.
        around: Gives w; None is the identity: v for the state, dt v for a forcing of the state's
            shape, else 0.
        mu: As in `Probing`, like `scheme`, `states` and `scale`.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        scale: (channel,), what `mu` is in units of; None measures it.
        executor: As in `Probing`.

    Attributes:
        variance: Mean squared error of the entries of s J^T v, estimated from the random direction
            that comes last; a mean over the products so far, those of looks left out.

    Raises:
        InputError: If a setting is out of range.
    """

    @checked
    def __init__(
        self,
        generator: Generator,
        directions: int = 64,
        around: Pullback | None = None,
        mu: float = 1e-3,
        scheme: Scheme = "forward",
        states: int = 512,
        scale: Scale = None,
        executor: Executor | None = None,
    ) -> None:
        self._probing = Probing(mu, scheme, states, executor, scale)
        check_not_negative("directions", directions)
        self._generator, self._directions = generator, directions
        self._around = around or _identity
        self.variance, self._products = 0.0, 0

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        guess, units = self._around(step, cotangent), self._probing.units(step)
        entries = step.point[0].numel()
        q = min(self._directions, len(step.entries))
        if q == 0 or not guess.isfinite().all():  # of a loss that is not finite, nothing is asked
            return guess
        columns, triangle = torch.linalg.qr(self._drawn(step, units, guess, q))
        # Entries of a mean square of 1: `mu` is of them.
        u = entries**0.5 * columns.mT.reshape(len(guess), -1, *step.point.shape[1:]).to(guess)
        along = self._along(step, units[:, None] * u, cotangent, guess) / entries
        last = float((along[:, -1] * triangle[:, -1, -1].to(along)).square().mean())
        if not CHECKING.get():  # else a look asks once more, at no product of the training
            self._products += 1
            self.variance += (last - self.variance) / self._products
        return guess + torch.einsum("bk,bk...->b...", along, u) / units

    def _drawn(self, step: Step, units: Varied, guess: Varied, q: int) -> Tensor:
        """(batch, entries, directions): the chosen ones, then random ones, at least one."""
        point, fields = step.point, [units * guess]
        group = (2 * point.dim() - 3) * point.shape[1]  # of a field, in one region
        alike = step.variable == "state" and point.shape == step.stepped.shape
        # Where all entries are directions there is no query left for it.
        if alike and 2 * group + 2 <= q < len(step.entries):
            fields.append(self._image(step, units, fields[0]))
            q -= 1
        picked = chosen(fields, q - 1).flatten(2)
        left = len(point) * (q - picked.shape[1])
        signs = rademacher(left, point[0].numel(), self._generator, torch.float32)
        whole = torch.cat([picked, signs.to(picked).view(len(point), -1, point[0].numel())], dim=1)
        if step.fluid is not None:
            whole = step.solver.grid.filled(whole.unflatten(2, point.shape[1:])).flatten(2)
        return whole.mT.to(torch.promote_types(whole.dtype, torch.float32))

    def _image(self, step: Step, units: Varied, field: Varied) -> Varied:
        """What the step makes of a field, both in units of the scale; 0 where the probe failed."""
        size = field.flatten(1).square().mean(dim=1).sqrt()
        directions = units * field / per_row(torch.where(size > 0, size, 1.0), field)
        rows = self._probing.calls(len(field), field)
        calls = ((r, directions[r]) for r in rows)
        found = torch.cat(list(responses(step, calls, self._probing)))
        return without_failed(found) / units

    def _along(
        self, step: Step, directions: Directions, cotangent: State, guess: Varied
    ) -> Float[Tensor, "batch directions"]:
        """<v, J d> - <w, d> for every direction; 0 where the probe failed."""
        flat, count = directions.flatten(0, 1), directions.shape[1]
        calls = self._probing.calls(len(flat), flat)
        asked = ((numbers // count, flat[numbers]) for numbers in calls)
        along = list[Tensor]()
        for numbers, found in zip(calls, responses(step, asked, self._probing), strict=True):
            rows = numbers // count
            measured = (without_failed(found) * cotangent[rows]).flatten(1).sum(dim=1)
            off = measured - (guess[rows] * flat[numbers]).flatten(1).sum(dim=1)
            along.append(off.masked_fill(failed(found), 0.0))
        return torch.cat(along).view(len(guess), count)


def chosen(fields: Sequence[Varied], most: int) -> Directions:
    """Directions along which a product may be off: fields, each channel and region by itself.

    Every field as it is and moved by one cell forth and back along each axis, of which the first
    `most` are taken; where there is room, each is cut into as many boxes as fit.
    """
    like = fields[0]
    channels, space, axes = like.shape[1], like.shape[2:], range(2, like.dim())
    moves = [(by, axis) for axis in axes for by in (1, -1)]
    near = [part for f in fields for part in (f, *(f.roll(by, axis) for by, axis in moves))]
    moved = torch.stack(near, dim=1)
    parts = [1] * len(space)

    def more(axis: int) -> list[int]:
        return [n + (axis == a) for a, n in enumerate(parts)]

    def fits(axis: int) -> bool:
        room = moved.shape[1] * channels * prod(more(axis)) <= most
        return parts[axis] < space[axis] and room

    while split := [axis for axis in range(len(space)) if fits(axis)]:
        parts = more(max(split, key=lambda axis: space[axis] / parts[axis]))
    boxes = like.new_zeros(prod(parts), *space)
    for box, at in zip(boxes, product(*map(range, parts)), strict=True):
        ends = zip(at, parts, space, strict=True)
        box[tuple(slice(i * n // p, (i + 1) * n // p) for i, p, n in ends)] = 1
    one = torch.eye(channels).to(like).view(channels, 1, channels, *[1] * len(space))
    cut = one * boxes[None, :, None] * moved[:, :, None, None]
    return cut.flatten(1, 3)[:, :most]


def _identity(step: Step, cotangent: State) -> Varied:
    """What passes if a step changes nothing but for dt times its forcing."""
    if cotangent.shape != step.point.shape:
        return torch.zeros_like(step.point)
    return IdentityPullback()(step, cotangent)
