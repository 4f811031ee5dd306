"""Jacobians of a solver's step at a few states, and the products at others that they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import Domain, Forcing, Solver, State
from zopde.errors import InputError
from zopde.files import load_tensors, reading, save_tensors
from zopde.interface.store import JacobianStore
from zopde.interface.vjp import Probing, Step, Variable, Varied, entries_of
from zopde.interface.watch import Watch
from zopde.validate import check_count, checked

Lookup = Literal["nearest", "fitted"]
Weights = Float[Tensor, "snapshots batch"]
_GIB = 2**30
_RIDGE = 1e-2  # of the spread of weights, against that of states in standard deviations


@dataclass(frozen=True)
class Key:
    """Divides states by their standard deviations, so that distances mean something."""

    scale: Float[Tensor, " channel"]  # (channel,), of the state
    # (forcing_channel,), of the forcing; None leaves it out, which suits a forcing that the step
    # merely adds
    forcing_scale: Float[Tensor, " forcing_channel"] | None = None

    def __call__(
        self, state: State, forcing: Forcing | None = None
    ) -> Float[Tensor, "batch key_channel *space"]:
        """The divided state, and the divided forcing beside it."""
        parts = [(state, self.scale), (forcing, self.forcing_scale)]
        divided = [
            field.detach() / scale.to(field).view(-1, *[1] * (field.dim() - 2))
            for field, scale in parts
            if field is not None and scale is not None
        ]
        return torch.cat(divided, dim=1)


def farthest_points(
    points: Float[Tensor, "points d"], count: int, groups: Int[Tensor, " points"] | None = None
) -> Int[Tensor, " count"]:
    """Choose points that leave no other far away, one by one: snapshots for a `Bank`.

        p_1 = the nearest to the mean,   p_k = argmax_p min_{i < k} |p - p_i|

    Without groups, the largest distance to a chosen point is at most twice the least that
    `count` points can reach (Gonzalez 1985, theorem 2.2). With them, p_k is of a group of which
    the fewest points were chosen before, so that each gets its share. No randomness.

    Args:
        points: (points, d), such as `key(states).flatten(1)`.
        count: How many to choose, >= 1 and at most as many as there are.
        groups: (points,), numbers of the groups from 0 on, such as one per parameter value.

    Returns:
        (count,), their numbers, in the order of the choice: fewer are a beginning of more.

    Raises:
        InputError: If there are not so many points.

    Example:
        >>> farthest_points(torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]]), 3).tolist()
        [2, 4, 0]
    """
    check_count("snapshots", count)
    if count > len(points):
        raise InputError("snapshots", got=count, expected=f"at most the {len(points)} states")
    members = torch.zeros(len(points), dtype=torch.long) if groups is None else groups.cpu()
    left = torch.bincount(members).tolist()
    used = [0] * len(left)
    distance = points.new_full((len(points),), float("inf")).cpu()
    latest = int((points - points.mean(dim=0)).square().sum(dim=1).argmin())
    chosen = [latest]
    while len(chosen) < count:
        group = int(members[latest])
        used[group], left[group] = used[group] + 1, left[group] - 1
        distance = torch.minimum(distance, (points - points[latest]).square().sum(dim=1).cpu())
        fewest = min(taken for taken, rest in zip(used, left, strict=True) if rest)
        due = [taken == fewest and rest > 0 for taken, rest in zip(used, left, strict=True)]
        candidates = torch.tensor(due)[members]
        candidates[chosen] = False
        latest = int(torch.where(candidates, distance, -1.0).argmax())
        chosen.append(latest)
    return torch.tensor(chosen)


@final
class Bank:
    """Jacobians J_k of a solver's step at snapshots (u_k, f_k), each measured once.

    Args:
        capacity: Jacobians at most.
        key: What distances between states are taken of.
        variable: Of which input they are the Jacobians, "state" or "forcing".
        probing: How they are measured; None is `Probing()`. Without a scale it takes the key's.
        store: Where they are kept; None is memory.
        path: A file in which the snapshots with a tag are listed, for `restore`; None for none.
        limit_gib: GiB that all of them may take, 4 bytes a number.

    Raises:
        InputError: If `capacity` is no whole number >= 1.

    Example: see `docs/files/bank.py`.
    """

    def __init__(
        self,
        capacity: int,
        key: Key,
        variable: Variable = "state",
        probing: Probing | None = None,
        store: JacobianStore | None = None,
        path: Path | None = None,
        limit_gib: float = 4.0,
    ) -> None:
        check_count("snapshots", capacity)
        self.key, self.variable, self.capacity = key, variable, capacity
        probing, own = probing or Probing(), key.scale if variable == "state" else key.forcing_scale
        self.probing = probing if probing.scale is not None else replace(probing, scale=own)
        self._store = store or JacobianStore()
        self._path, self._limit = path, limit_gib
        self.jacobians: list[Float[Tensor, "inputs outputs"]] = []  # J^T[j, i] = d S_i / d x_j
        self.listed: list[dict[str, Any]] = []  # the snapshots with a tag, as in the file
        self._keys: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.jacobians)

    def add(self, step: Step, tag: int | None = None, store: JacobianStore | None = None) -> None:
        """Add the Jacobian at every state of a step's batch.

        Queries: D solver steps for each that the store does not know (twice as many with the
        central scheme), D = number of entries of the varied input.

        Args:
            step: Where.
            tag: A number by which to list them, see `restore`; None does not.
            store: Where to keep them, if not with the others.

        Raises:
            InputError: If there is no room, or so many Jacobians do not fit into the limit.
            SolverError: If the solver fails.
        """
        if len(self) + len(step.state) > self.capacity:
            got = f"{len(step.state)} more than the {len(self)} snapshots"
            raise InputError("bank", got=got, expected=f"at most {self.capacity}")
        step = replace(step, variable=self.variable)
        sizes = len(step.entries), step.stepped[0].numel()
        check_bank_fits(self.capacity, *sizes, self._limit)
        self.jacobians += (store or self._store).fetch(step, self.probing)
        for single in map(step.at, range(len(step.state))):
            self._keys.append(self.key(single.state, single.forcing)[0].cpu())
            if tag is not None:
                forcing = None if single.forcing is None else single.forcing.clone()
                copies = {"state": single.state[0].clone(), "stepped": single.stepped[0].clone()}
                self.listed.append({**copies, "forcing": forcing, "tag": tag})
        if tag is not None:
            self._write()

    def mend(self, step: Step, tag: int | None = None, store: JacobianStore | None = None) -> bool:
        """Add the Jacobian at a state where the others do not fit, as `add` does, if there is room.

        Returns:
            Whether there was.
        """
        if len(self) == self.capacity:
            return False
        self.add(step, tag, store)
        return True

    def restore(self, solver: Solver, below: int, store: JacobianStore | None = None) -> None:
        """Add again what the file lists, up to the first tag that is not below `below`.

        Args:
            solver: What is stepped where a Jacobian is gone.
            below: The rest is forgotten.
            store: As for `add`.

        Raises:
            InputError: If the file is not a list of snapshots.
        """
        if self._path is None or not self._path.exists():
            return
        steps = []
        remedy = "start over with --overwrite"
        with reading("list of snapshots", self._path, "what a run of zopde wrote", remedy):
            for snapshot in load_tensors(self._path):
                if snapshot["tag"] >= below:
                    break
                state, stepped = snapshot["state"][None], snapshot["stepped"][None]
                steps.append((Step(solver, state, snapshot["forcing"], stepped), snapshot["tag"]))
        for step, tag in steps:
            self.add(step, tag, store)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            save_tensors(self._path, self.listed)

    @property
    def keys(self) -> Float[Tensor, "snapshots key_channel *space"]:
        """Where the snapshots lie."""
        return torch.stack(self._keys)

    def distances(self, state: State, forcing: Forcing | None) -> Float[Tensor, "batch snapshots"]:
        """Root mean square distance of every state to every snapshot, in standard deviations."""
        # Differences first: squares of the norms would leave nothing of a small distance.
        key = self.key(state, forcing)
        away = key - self.keys.to(key)[:, None]
        return away.square().flatten(2).mean(dim=2).sqrt().T


def check_bank_fits(capacity: int, inputs: int, outputs: int, limit_gib: float) -> None:
    """Require that so many Jacobians of so many entries fit into so many GiB, 4 bytes a number."""
    needed = 4 * capacity * inputs * outputs / _GIB
    if needed > limit_gib:
        got = f"{capacity} x {inputs:,} x {outputs:,} entries, {needed:.3g} GiB"
        remedy = "take fewer snapshots or a coarser grid, raise the limit, or use "
        remedy += 'interface.way = "tangent"'
        raise InputError("bank", got=got, expected=f"at most {limit_gib:.3g} GiB", remedy=remedy)


def check_banks_fit(
    capacity: int, grid: Domain, variables: Sequence[Variable], limit_gib: float
) -> None:
    """Require that a bank of each varied input fits, where they share so many GiB."""
    outputs = prod(grid.state_shape)
    for variable in variables:
        entries = entries_of(grid, [variable])
        check_bank_fits(capacity, entries, outputs, limit_gib / len(variables))


def nearest(bank: Bank, state: State, forcing: Forcing | None) -> Weights:
    """w_k = 1 for k = argmin |u - u_k|, else 0."""
    away = bank.distances(state, forcing)
    weights: Tensor = torch.nn.functional.one_hot(away.argmin(dim=1), away.shape[1]).to(away)
    return weights.T


def fitted(bank: Bank, state: State, forcing: Forcing | None) -> Weights:
    """The w that minimise |u - sum_k w_k u_k|^2 + 0.01 |w - 1 / K|^2, with sum_k w_k = 1.

    (|.|^2 a mean over entries, in standard deviations.) Some may be negative. Exact where the
    Jacobian is affine in the state (a quadratic step) and the snapshots span the state.
    """
    count = len(bank)
    keys = bank.keys.to(state).flatten(1)
    middle = keys.mean(dim=0)
    spread = keys - middle
    away = bank.key(state, forcing).flatten(1) - middle
    overlaps = spread @ spread.T / keys.shape[1] + _RIDGE * torch.eye(count).to(keys)
    weights: Tensor = torch.linalg.solve(overlaps, spread @ away.T / keys.shape[1])
    # The spreads add up to zero, so do these: taking their mean away is round-off's alone.
    return 1 / count + weights - weights.mean(dim=0)


LOOKUPS: dict[str, Callable[[Bank, State, Forcing | None], Weights]] = {
    "nearest": nearest,
    "fitted": fitted,
}
"""How a state finds its Jacobian in a `Bank`, by name."""


@final
class BankPullback:
    """Takes J^T v from Jacobians that were measured elsewhere.

        J^T v  ~  sum_k w_k (J_k^T v)

        nearest:  w_k = 1 for the snapshot at the least distance, else 0
        fitted:   the weights, of sum 1, with which the snapshots come nearest to the state

    The error is the change of the Jacobian between the state and the snapshots; it does not
    fall with mu. "fitted" reads every Jacobian of the bank at every product, "nearest" one for
    each state. Queries: none but the watch's (D where it adds a snapshot, and its fallback's). No
    randomness but the watch's.

    Args:
        bank: Jacobians of the state or of the forcing, at least one; see `PullbackByVariable`
            for both.
        lookup: "nearest" or "fitted".
        watch: Compares the bank with the solver; None looks at every tenth product, and warns
            where it fits badly.

    Raises:
        InputError: If the bank is empty, or the lookup is unknown.
    """

    @checked
    def __init__(self, bank: Bank, lookup: Lookup = "nearest", watch: Watch | None = None) -> None:
        if not len(bank):
            raise InputError("bank", got="no snapshot", expected="at least one", remedy="add one")
        self._bank, self._lookup = bank, lookup
        self._watch = watch or Watch(torch.Generator().manual_seed(0))

    def __call__(self, step: Step, cotangent: State) -> Varied:
        """See `Pullback`."""
        if step.variable != self._bank.variable:
            got, expected = f"Jacobians of the {self._bank.variable}", f"one of the {step.variable}"
            remedy = "detach that input, or use another pullback for it"
            raise InputError("bank", got=got, expected=expected, remedy=remedy)
        instead = self._watch.instead(step, self._push, self._bank.probing)
        if instead is not None:
            return instead(step, cotangent)
        return self._weighted(step, cotangent, transposed=True).view_as(step.point)

    def _push(self, step: Step, direction: Varied) -> State:
        return self._weighted(step, direction, transposed=False).view_as(step.stepped)

    def _weighted(self, step: Step, vectors: Tensor, transposed: bool) -> Tensor:
        """sum_k w_k J_k^T v, or J_k (w_k d), for every state of the batch."""
        bank, flat, entries = self._bank, vectors.flatten(1), step.entries
        weights = LOOKUPS[self._lookup](bank, step.state, step.forcing)
        like = step.point if transposed else step.stepped
        products = flat.new_zeros(len(flat), like[0].numel())
        for k in weights.any(dim=1).nonzero().flatten().tolist():
            rows = weights[k].nonzero().flatten()
            jacobian, weight = bank.jacobians[k].to(flat), weights[k, rows][:, None]
            if transposed:
                products[rows[:, None], entries] += weight * (flat[rows] @ jacobian.T)
            else:
                products[rows] += (weight * flat[rows[:, None], entries]) @ jacobian
        return products
