"""Comparing a product with the solver: a directional derivative, asked for now and then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from zopde.contracts import State, counted_apart
from zopde.interface.store import JacobianStore
from zopde.interface.vjp import Probing, Pullback, Step, differences
from zopde.validate import check_positive
from zopde.zo.rge import rademacher

_COUNTS = 1e-2  # of the largest change of a channel, in units of its scale: what a watch looks at


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


@dataclass
class Watch:
    """Compares a bank with the solver at every product, for one solver step each.

        agreement = cosine of  d/dmu S(x + mu d) - d  and  J_bank d - d,    d random, +1 and -1

    in units of each channel's scale: the least over the channels that change by more than 1 % of
    what the others do, so that a channel of small numbers counts. What a step leaves of its state
    as it is would agree by itself, so it is taken away from both. Where the agreement is below
    the threshold, the state becomes a snapshot as long as the bank has room; after that,
    `fallback` gives this product and all that follow.

    Raises:
        InputError: If `mu` is not positive.
    """

    generator: Generator  # source of the directions
    threshold: float = 0.0  # 0 or less: nothing is done about any agreement
    mu: float = 1e-3  # finite-difference step, in units of the scale of the bank's `Probing`; > 0
    tag: int | None = None  # what such a snapshot is added with
    store: JacobianStore | None = None  # where such a snapshot is kept; None: with the others
    fallback: Pullback | None = None  # what then takes the bank's place; None: still the bank
    once: bool = False  # look at the first product alone, and count the step apart, as "checking"
    agreements: list[float] = field(default_factory=list)  # every figure so far
    added: int = 0  # snapshots added so far
    fell_back: int = 0  # products that `fallback` has given

    def __post_init__(self) -> None:
        check_positive("mu", self.mu)


def least_cosine(
    left: Float[Tensor, "channel entries"], right: Float[Tensor, "channel entries"]
) -> float:
    """The least cosine over the channels that count; 1 where nothing changes at all."""
    sizes = torch.maximum(left.norm(dim=1), right.norm(dim=1))
    counts = sizes > _COUNTS * sizes.max()
    cosines = torch.cosine_similarity(left, right, dim=1)[counts]
    return float(cosines.min()) if len(cosines) else 1.0
