"""Vector-Jacobian products from a bank of Jacobians, which may be watched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Generator, Tensor

from zopde.contracts import State
from zopde.errors import InputError
from zopde.interface.bank import LOOKUPS, Bank, Lookup
from zopde.interface.store import JacobianStore
from zopde.interface.vjp import Pullback, Step, Varied, differences, failed
from zopde.validate import check_choice, check_positive


@dataclass
class Watch:
    """Compares a bank with the solver at every product, for one solver step each.

        agreement = cosine of  d/dmu S(x + mu d) - d  and  J_bank d - d,    d random, +1 and -1

    What a step leaves of its state as it is would agree by itself, so it is taken away from
    both. Where the agreement is below the threshold, the state becomes a snapshot as long as the
    bank has room; after that, `fallback` gives this product and all that follow.

    Args:
        generator: Source of the directions.
        threshold: 0 or less: nothing is done about any agreement.
        mu: Finite-difference step, in the units of the varied input; > 0.
        tag: What such a snapshot is added with.
        store: Where such a snapshot is kept; None: with the others.
        fallback: What then takes the bank's place; None: still the bank.
        agreements: Every figure so far.
        added: Snapshots added so far.
        fell_back: Products that `fallback` has given.

    Raises:
        InputError: If `mu` is not positive.
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
class BankPullback:
    """J^T v with Jacobians that were measured elsewhere.

        J^T v  ~  sum_k w_k (J_k^T v)

        nearest:  w_k = 1 for the snapshot at the least distance, else 0
        fitted:   the weights, of sum 1, with which the snapshots come nearest to the state

    The error is the change of the Jacobian between the state and the snapshots; it does not
    fall with mu. "fitted" reads every Jacobian of the bank at every product, "nearest" one for
    each state. Queries: none but the watch's (one solver step for each product that is watched,
    D where it adds a snapshot, and its fallback's). No randomness but the watch's.

    Args:
        bank: Jacobians of the state or of the forcing, at least one; see `PullbackByVariable`
            for both.
        lookup: "nearest" or "fitted".
        watch: Compares the bank with the solver at every product; None does not.

    Raises:
        InputError: If the bank is empty, or the lookup is unknown.
    """

    def __init__(self, bank: Bank, lookup: Lookup = "nearest", watch: Watch | None = None) -> None:
        check_choice("lookup", lookup, LOOKUPS)
        if not len(bank):
            raise InputError("bank", got="no snapshot", expected="at least one", remedy="add one")
        self._bank, self._lookup, self._watch = bank, lookup, watch

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        if step.variable != self._bank.variable:
            raise InputError(
                "bank",
                got=f"Jacobians of the {self._bank.variable}",
                expected=f"one of the {step.variable}",
                remedy="detach that input, or use another pullback for it",
            )
        watch = self._watch
        if watch is not None:
            instead = watch.fallback if watch.fell_back else self._look(step, watch)
            if instead is not None:
                watch.fell_back += 1
                return instead(step, cotangent)
        return self._weighted(step, cotangent, transposed=True).view_as(step.point)

    def _weighted(self, step: Step, vectors: Tensor, transposed: bool) -> Tensor:
        """sum_k w_k J_k^T v, or J_k (w_k d), for every state of the batch."""
        flat = vectors.flatten(1)
        weights = LOOKUPS[self._lookup](self._bank, step.state, step.forcing)
        like = step.point if transposed else step.stepped
        products = flat.new_zeros(len(flat), like[0].numel())
        for k in weights.any(dim=1).nonzero().flatten().tolist():
            rows = weights[k].nonzero().flatten()
            jacobian, weight = self._bank.jacobian(k), weights[k, rows][:, None]
            if transposed:
                products[rows] += weight * jacobian.pull(flat[rows])
            else:
                products[rows] += jacobian.push(weight * flat[rows])
        return products

    def _look(self, step: Step, watch: Watch) -> Pullback | None:
        """Compare at one state of the batch, all in turn; what takes the bank's place."""
        row = len(watch.agreements) % len(step.state)
        forcing = None if step.forcing is None else step.forcing[row : row + 1]
        state, stepped = step.state[row : row + 1], step.stepped[row : row + 1]
        single = Step(step.solver, state, forcing, stepped, step.variable)
        signs = torch.randint(0, 2, single.point.shape, generator=watch.generator)
        d = (2 * signs - 1).to(state)
        measured = differences(single, torch.zeros(1, dtype=torch.long), d, watch.mu)
        if failed(measured).any():  # it tells nothing about the bank
            return None
        expected = self._weighted(single, d, transposed=False)
        unchanged = d.flatten(1) if step.variable == "state" else 0
        left, right = measured.flatten(1) - unchanged, expected - unchanged
        cosine = float(torch.cosine_similarity(left.double(), right.double(), dim=1))
        watch.agreements.append(cosine)
        if watch.threshold <= 0 or cosine >= watch.threshold:
            return None
        if self._bank.full:
            return watch.fallback
        self._bank.add(single, watch.tag, watch.store)
        watch.added += 1
        return None
