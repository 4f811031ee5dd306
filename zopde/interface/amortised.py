"""Jacobians looked up instead of asked for, and watched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from zopde.contracts import State
from zopde.errors import InputError
from zopde.interface.bank import Bank
from zopde.interface.differences import differences, failed
from zopde.interface.lookup import LOOKUPS, Lookup
from zopde.interface.store import JacobianStore
from zopde.interface.vjp import Pullback, Step
from zopde.validate import check_choice, check_positive


@dataclass
class Watch:
    """One solver step per watched product, to see whether the bank still fits.

        agreement = cosine of  d/dmu S(x + mu d) - d  and  J_bank d - d,    d random, +1 and -1

    What a step leaves of its state as it is would agree by itself, so it is taken away from
    both. Where the agreement is below the threshold, the state becomes a snapshot as long as the
    bank has room; after that, `fallback` answers this product and all that follow.

    Args:
        generator: Source of the directions.
        threshold: 0 or less: nothing is done about any agreement.
        mu: Finite-difference step, in the units of the varied input; > 0.
        tag: What such a snapshot is added with.
        store: Where such a snapshot is kept; None: with the others.
        fallback: What then answers in the bank's place; None: still the bank.
        agreements: Every figure so far.
        added: Snapshots added so far.
        fell_back: Products that `fallback` has answered.
    """

    generator: Generator
    threshold: float = 0.0
    mu: float = 1e-3
    tag: int | None = None
    store: JacobianStore | None = None
    fallback: Pullback | None = None
    agreements: list[float] = field(default_factory=list)
    added: int = 0
    fell_back: int = 0

    def __post_init__(self) -> None:
        check_positive("mu", self.mu)


@final
class AmortisedPullback:
    """J^T v with Jacobians that were measured elsewhere.

        J^T v  ~  sum_k w_k (J_k^T v),    the weights w_k by what `lookup` says, see `LOOKUPS`

    The error is the change of the Jacobian between the state and the snapshots; it does not
    fall with mu. Queries: none but the watch's (one solver step for each product that is
    watched, D where it adds a snapshot, and its fallback's). No randomness but the watch's.

    Args:
        bank: Jacobians of the state or of the forcing, at least one; see `PullbackByVariable`
            for both.
        lookup: "nearest", "mean", "interpolated", "fitted" or "local".
        watch: Compares the bank with the solver at every product; None does not.

    Raises:
        InputError: If the bank is empty, or the lookup is unknown.
    """

    def __init__(self, bank: Bank, lookup: Lookup = "nearest", watch: Watch | None = None) -> None:
        check_choice("lookup", lookup, LOOKUPS)
        if not len(bank):
            raise InputError("bank", got="no snapshot", expected="at least one", remedy="add one")
        self._bank, self._lookup, self._watch = bank, lookup, watch

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
        watch = self._watch
        if watch is not None:
            helper = watch.fallback if watch.fell_back else self._look(step, watch)
            if helper is not None:
                watch.fell_back += 1
                return helper(step, cotangent)
        return self._weighted(step, cotangent, transposed=True).view_as(step.point)

    def _weighted(self, step: Step, vectors: Tensor, transposed: bool) -> Tensor:
        """sum_k w_k J_k^T v, or J_k (w_k d), for every state of the batch."""
        flat, cells = vectors.flatten(1), step.state[0, 0].numel()
        if self._lookup == "mean":
            mean = self._bank.mean
            return mean.pull(flat) if transposed else mean.push(flat)
        weights = LOOKUPS[self._lookup](self._bank, step.state, step.forcing)
        inputs = step.point[0].numel()
        found = flat.new_zeros(len(flat), inputs if transposed else step.stepped[0].numel())
        for k in weights.flatten(1).any(dim=1).nonzero().flatten().tolist():
            rows = weights[k].any(dim=1).nonzero().flatten()
            jacobian, of_cells = self._bank.jacobian(k), weights[k, rows][:, None]
            if transposed:
                pulled = jacobian.pull(flat[rows]).view(len(rows), -1, cells)
                found[rows] += (of_cells * pulled).flatten(1)
            else:
                weighted = of_cells * flat[rows].view(len(rows), -1, cells)
                found[rows] += jacobian.push(weighted.flatten(1))
        return found

    def _look(self, step: Step, watch: Watch) -> Pullback | None:
        """Compare at one state of the batch, all in turn; who answers in the bank's place."""
        row = len(watch.agreements) % len(step.state)
        forcing = None if step.forcing is None else step.forcing[row : row + 1]
        state, stepped = step.state[row : row + 1], step.stepped[row : row + 1]
        one = Step(step.solver, state, forcing, stepped, step.variable)
        signs = torch.randint(0, 2, one.point.shape, generator=watch.generator)
        d = (2 * signs - 1).to(state)
        found = differences(one, torch.zeros(1, dtype=torch.long), d, watch.mu)
        if failed(found).any():  # it tells nothing about the bank
            return None
        expected = self._weighted(one, d, transposed=False)
        unchanged = d.flatten(1) if step.variable == "state" else 0
        left, right = found.flatten(1) - unchanged, expected - unchanged
        cosine = float(torch.cosine_similarity(left.double(), right.double(), dim=1))
        watch.agreements.append(cosine)
        if watch.threshold <= 0 or cosine >= watch.threshold:
            return None
        if self._bank.full:
            return watch.fallback
        self._bank.add(one, watch.tag, watch.store)
        watch.added += 1
        return None
