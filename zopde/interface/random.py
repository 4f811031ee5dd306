"""Random directions: unbiased, and noisy."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Generator

from zopde.contracts import State
from zopde.interface.vjp import Probing, Step, Varied, differences, failed, per_row
from zopde.validate import check_choice, check_count
from zopde.zo.cge import Scheme
from zopde.zo.rge import rademacher


@final
class RandomPullback:
    """J^T v from directional derivatives along random directions.

        J^T v  ~  w + (1/q) sum_k (<v, J u_k> - <w, u_k>) u_k,      E[u u^T] = I

    with w = v ("identity": a step changes little, so only J - 1 is left to chance) or w = 0
    ("zero"). Unbiased up to O(mu); the variance of an entry is about |J^T v - w|^2 / q, and a
    long unroll multiplies it step by step. Queries: q solver steps per state and step, twice as
    many with the central scheme. Randomness: the directions (entries -1 and +1). Probes that
    failed are left out, and q is the number of the others: w where there is none.

    Args:
        generator: Source of the directions.
        directions: q, >= 1.
        mu: Finite-difference step, in the units of the varied input; > 0.
        scheme: "forward" or "central".
        states: States of a solver call at most.
        around: w, for the influence of the state; that of the forcing always has w = 0.

    Attributes:
        variance: Estimated variance of a product's entries, their mean, and over the products
            so far.

    Raises:
        InputError: If a setting is out of range.
    """

    def __init__(
        self,
        generator: Generator,
        directions: int = 64,
        mu: float = 1e-3,
        scheme: Scheme = "forward",
        states: int = 512,
        around: Literal["identity", "zero"] = "identity",
    ) -> None:
        self._probing = Probing(mu, scheme, states)
        check_count("directions", directions)
        check_choice("around", around, ("identity", "zero"))
        self._generator, self._directions, self._around = generator, directions, around
        self.variance, self._products = 0.0, 0

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        point, q, probing = step.point, self._directions, self._probing
        identity = self._around == "identity" and step.variable == "state"
        guess = cotangent if identity else torch.zeros_like(point)
        correction, squares = torch.zeros_like(point), 0.0
        counts = torch.zeros(len(point), dtype=torch.long, device=point.device)
        every = torch.arange(len(point) * q, device=point.device)
        for probes in every.split(probing.per_call):
            rows = probes // q
            drawn = rademacher(len(rows), point[0].numel(), self._generator, torch.float32)
            u = drawn.to(point).view(-1, *point.shape[1:])
            responses = differences(step, rows, u, probing.mu, probing.scheme)
            good = ~failed(responses)
            rows, u, responses = rows[good], u[good], responses[good]
            counts += rows.bincount(minlength=len(point))
            along = (responses * cotangent[rows]).flatten(1).sum(dim=1)
            along = along - (guess[rows] * u).flatten(1).sum(dim=1)
            squares += float(along.double().square().sum())
            correction.index_add_(0, rows, per_row(along, u) * u)
        variance = squares / max(1, int(counts.sum())) / q
        self._products += 1
        self.variance += (variance - self.variance) / self._products
        return guess + correction / per_row(counts.clamp_min(1).to(point), point)
