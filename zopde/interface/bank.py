"""Jacobians of a solver's step at a few states: which states, and their weights at another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zopde.contracts import Forcing, Solver, State
from zopde.errors import InputError
from zopde.files import replacing
from zopde.interface.forms import Form, Jacobian
from zopde.interface.store import JacobianStore, Probing
from zopde.interface.vjp import Step, Variable
from zopde.validate import check_count

Lookup = Literal["nearest", "fitted"]
Weights = Float[Tensor, "snapshots batch"]
_RIDGE = 1e-2  # of the spread of weights, against that of states in standard deviations


@dataclass(frozen=True)
class Key:
    """Divides states by their standard deviations, so that distances between them mean something.

    Args:
        scale: (channel,), of the state.
        forcing_scale: (forcing_channel,), of the forcing; None leaves it out, which suits a
            forcing that the step merely adds.
    """

    scale: Float[Tensor, " channel"]
    forcing_scale: Float[Tensor, " forcing_channel"] | None = None

    def __call__(
        self, state: State, forcing: Forcing | None = None
    ) -> Float[Tensor, "batch key_channel *space"]:
        """The divided state, and the divided forcing beside it."""
        divided = [_divided(state, self.scale)]
        if self.forcing_scale is not None and forcing is not None:
            divided.append(_divided(forcing, self.forcing_scale))
        return torch.cat(divided, dim=1)


def _divided(field: Tensor, scale: Tensor) -> Tensor:
    return field.detach() / scale.to(field).view(-1, *[1] * (field.dim() - 2))


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
        fewest = min(u for u, rest in zip(used, left, strict=True) if rest)
        due = torch.tensor([u == fewest and r > 0 for u, r in zip(used, left, strict=True)])
        candidates = due[members]
        candidates[chosen] = False
        latest = int(torch.where(candidates, distance, -1.0).argmax())
        chosen.append(latest)
    return torch.tensor(chosen)


@final
class Bank:
    """Jacobians J_k of a solver's step at snapshots (u_k, f_k), each measured once.

    Args:
        form: How each is kept; see `form_for`.
        capacity: Jacobians at most.
        key: What distances between states are taken of.
        variable: Of which input they are the Jacobians, "state" or "forcing".
        probing: How they are measured; None is `Probing()`.
        store: Where they are kept; None is memory.
        path: A file in which the snapshots with a tag are listed, for `restore`; None for none.

    Raises:
        InputError: If `capacity` is no whole number >= 1.

    Example: the Jacobians at 12 of many states, `stepped` being the solver's step of each::

        key = Key(states.std(dim=(0, 2, 3)))
        chosen = farthest_points(key(states).flatten(1), 12)
        bank = Bank(form_for(solver.grid, "state", 12), 12, key)
        bank.add(Step(solver, states[chosen], None, stepped[chosen]))
        pullback = BankPullback(bank)
    """

    def __init__(
        self,
        form: Form,
        capacity: int,
        key: Key,
        variable: Variable = "state",
        probing: Probing | None = None,
        store: JacobianStore | None = None,
        path: Path | None = None,
    ) -> None:
        check_count("snapshots", capacity)
        self.form, self.key, self.variable = form, key, variable
        self._capacity, self._path = capacity, path
        self._probing, self._store = probing or Probing(), store or JacobianStore()
        self._jacobians: list[Jacobian] = []
        self._keys: list[Tensor] = []
        self._listed: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._jacobians)

    @property
    def full(self) -> bool:
        """Whether there is no room for another snapshot."""
        return len(self) == self._capacity

    @property
    def tags(self) -> list[int]:
        """What the listed snapshots were added with."""
        return [snapshot["tag"] for snapshot in self._listed]

    @property
    def error(self) -> float:
        """The largest share that any Jacobian lost by the way it is kept."""
        return max((jacobian.error for jacobian in self._jacobians), default=0.0)

    def add(self, step: Step, tag: int | None = None, store: JacobianStore | None = None) -> None:
        """Add the Jacobian at every state of a step's batch.

        Queries: D solver steps for each that the store does not know (twice as many with the
        central scheme), D = number of entries of the varied input.

        Args:
            step: Where.
            tag: A number by which to list them, see `restore`; None does not.
            store: Where to keep them, if not with the others.

        Raises:
            InputError: If there is no room.
            SolverError: If the solver fails.
        """
        if len(self) + len(step.state) > self._capacity:
            raise InputError(
                "bank",
                got=f"{len(step.state)} more than the {len(self)} snapshots",
                expected=f"at most {self._capacity}",
            )
        step = replace(step, variable=self.variable)
        jacobians = (store or self._store).fetch(step, self.form, self._probing)
        for row, jacobian in enumerate(jacobians):
            forcing = None if step.forcing is None else step.forcing[row : row + 1]
            self._jacobians.append(jacobian)
            self._keys.append(self.key(step.state[row : row + 1], forcing)[0].cpu())
            if tag is not None:
                snapshot = {"state": step.state[row], "stepped": step.stepped[row]}
                copies = {name: value.clone() for name, value in snapshot.items()}
                copy = None if forcing is None else forcing.clone()
                self._listed.append({**copies, "forcing": copy, "tag": tag})
        if tag is not None:
            self._write()

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
        try:
            listed = torch.load(self._path, weights_only=True)
            end = next((i for i, snapshot in enumerate(listed) if snapshot["tag"] >= below), None)
            steps = [
                (Step(solver, s["state"][None], s["forcing"], s["stepped"][None]), s["tag"])
                for s in listed[:end]
            ]
        except Exception as error:  # whatever a file that is not ours makes torch raise
            raise InputError(
                f"list of snapshots {self._path}",
                got="another file, or half of it",
                expected="what a run of zopde wrote",
                remedy="start over with --overwrite",
            ) from error
        for step, tag in steps:
            self.add(step, tag, store)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            with replacing(self._path) as partial, partial.open("wb") as file:
                torch.save(self._listed, file)

    def jacobian(self, k: int) -> Jacobian:
        """J_k."""
        return self._jacobians[k]

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


def nearest(bank: Bank, state: State, forcing: Forcing | None) -> Weights:
    """w_k = 1 for k = argmin |u - u_k|, else 0."""
    away = bank.distances(state, forcing)
    weights: Tensor = torch.nn.functional.one_hot(away.argmin(dim=1), away.shape[1]).to(away)
    return weights.T


def fitted(bank: Bank, state: State, forcing: Forcing | None) -> Weights:
    """The weights that put the snapshots together to the state, as far as they can.

        min_w |u - sum_k w_k u_k|^2 + 0.01 |w - 1 / K|^2,    sum_k w_k = 1

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
