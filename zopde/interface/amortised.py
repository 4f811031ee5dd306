"""Jacobians looked up instead of asked for, and watched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from zopde.checks import check_choice
from zopde.errors import InputError
from zopde.interface.bank import Bank
from zopde.interface.differences import check_probing, differences
from zopde.interface.vjp import Step
from zopde.protocols import State
from zopde.zo.cge import Scheme

Lookup = Literal["nearest", "mean", "interpolated"]


@dataclass
class Watch:
    """One solver step per watched state, to see whether the bank still fits.

        agreement = cosine of  d/dmu S(u + mu d) - d  and  J_bank d - d,    d random, +1 and -1

    What a step leaves as it is would agree by itself, so it is taken away from both.

    Args:
        generator: Source of the directions.
        threshold: Where the agreement is below, the state becomes a snapshot, as long as the
            bank has room; 0 or less: never.
        mu: Finite-difference step, in the units of the state.
        tag: What such a snapshot is added with.
        agreements: Every figure so far.
        added: Snapshots added so far.
    """

    generator: Generator
    threshold: float = 0.0
    mu: float = 1e-3
    tag: int = -1
    agreements: list[float] = field(default_factory=list)
    added: int = 0


@final
class AmortisedPullback:
    """J^T v with Jacobians that were measured elsewhere.

        nearest:        J_k^T v,                 k = argmin |u - u_k|
        mean:           (1 / K) sum_k J_k^T v
        interpolated:   sum_k w_k J_k^T v,       w_k = |u - u_k|^-2 / sum_i |u - u_i|^-2

    The error is the change of the Jacobian between the state and the snapshots; it does not
    fall with mu. Queries: none but the watch's (one solver step for one state of each product
    that is watched, D where it adds a snapshot). No randomness but the watch's.

    Args:
        bank: Jacobians of the state, at least one.
        lookup: "nearest", "mean" or "interpolated".
        watch: Compares the bank with the solver at every product; None does not.
        scheme: Of snapshots that the watch adds.
        states: States of a solver call at most, likewise.

    Raises:
        InputError: If the bank is empty, or a setting is unknown.
    """

    def __init__(
        self,
        bank: Bank,
        lookup: Lookup = "nearest",
        watch: Watch | None = None,
        scheme: Scheme = "forward",
        states: int = 512,
    ) -> None:
        check_choice("lookup", lookup, ("nearest", "mean", "interpolated"))
        check_probing(watch.mu if watch else 1.0, scheme, states)
        if not len(bank):
            raise InputError("bank", got="no snapshot", expected="at least one", remedy="add one")
        self._bank, self._lookup, self._watch = bank, lookup, watch
        self._scheme, self._states = scheme, states

    def __call__(
        self, step: Step, cotangent: State
    ) -> Float[Tensor, "batch varied_channel *space"]:
        """See `Pullback`."""
        if step.variable != self._bank.variable:
            raise InputError(
                "amortised interface",
                got=f"a bank of Jacobians of the {self._bank.variable}",
                expected=f"one of the {step.variable}",
                remedy="detach that input, or use another pullback for it",
            )
        if self._watch:
            self._look(step, self._watch)
        return self._weighted(step, cotangent, transposed=True).view_as(step.point)

    def _weighted(self, step: Step, vectors: Tensor, transposed: bool) -> Tensor:
        """sum_k w_k J_k^T v, or J_k d, for every state of the batch."""
        flat = vectors.flatten(1)
        if self._lookup == "mean":
            matrix = self._bank.mean.to(flat)
            return flat @ (matrix.T if transposed else matrix)
        weights = self._weights(step)
        found = flat.new_zeros(len(flat), step.point[0].numel() if transposed else flat.shape[1])
        for k in weights.any(dim=0).nonzero().flatten().tolist():
            rows = weights[:, k].nonzero().flatten()
            matrix = self._bank.transposed(k).to(flat)
            found[rows] += weights[rows, k, None] * (
                flat[rows] @ (matrix.T if transposed else matrix)
            )
        return found

    def _weights(self, step: Step) -> Float[Tensor, "batch snapshots"]:
        away = self._bank.distances(step.state, step.forcing)
        if self._lookup == "nearest":
            return torch.nn.functional.one_hot(away.argmin(dim=1), away.shape[1]).to(away)
        # Relative to the nearest one, so that a state right at a snapshot gives no infinity.
        least = away.min(dim=1, keepdim=True).values.clamp_min(1e-6)
        weights = (least / away.clamp_min(1e-6)).square()
        return weights / weights.sum(dim=1, keepdim=True)

    def _look(self, step: Step, watch: Watch) -> None:
        """Compare at one state of the batch, all in turn."""
        row = len(watch.agreements) % len(step.state)
        forcing = None if step.forcing is None else step.forcing[row : row + 1]
        state, stepped = step.state[row : row + 1], step.stepped[row : row + 1]
        one = Step(step.solver, state, forcing, stepped, step.variable)
        signs = torch.randint(0, 2, state.shape, generator=watch.generator)
        d = (2 * signs - 1).to(state)
        found = differences(one, torch.zeros(1, dtype=torch.long), d, watch.mu)
        expected = self._weighted(one, d, transposed=False)
        unchanged = d.flatten(1) if d.shape == found.shape else 0
        left, right = found.flatten(1) - unchanged, expected - unchanged
        cosine = float(torch.cosine_similarity(left.double(), right.double(), dim=1))
        watch.agreements.append(cosine)
        if cosine < watch.threshold and not self._bank.full:
            self._bank.add(one, watch.mu, self._scheme, self._states, watch.tag)
            watch.added += 1
