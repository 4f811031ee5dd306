"""Jacobians of a solver's step at a few states, each measured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Forcing, Solver, State
from zopde.errors import InputError
from zopde.files import replacing
from zopde.grid import Grid
from zopde.interface.compressed import CompressedForm
from zopde.interface.forms import DenseForm, Form, Jacobian
from zopde.interface.store import JacobianStore, Probing
from zopde.interface.vjp import Step, Variable
from zopde.validate import check_count

_GIB = 2**30


@dataclass(frozen=True)
class Key:
    """Where states lie for the sake of distances: divided by their standard deviations.

    Args:
        scale: (channel,), of the state.
        forcing_scale: (forcing_channel,), of the forcing; None leaves it out, which suits a
            forcing that the step merely adds.
    """

    scale: Float[Tensor, " channel"]
    forcing_scale: Float[Tensor, " forcing_channel"] | None = None

    def __call__(
        self, state: State, forcing: Forcing | None
    ) -> Float[Tensor, "batch key_channel *space"]:
        """Of every state of a batch."""
        parts = [_divided(state, self.scale)]
        if self.forcing_scale is not None and forcing is not None:
            parts.append(_divided(forcing, self.forcing_scale))
        return torch.cat(parts, dim=1)


@final
class Bank:
    """Jacobians J_k at snapshots (u_k, f_k).

    Args:
        grid: The solver's grid.
        form: How each is kept; see `form_for`.
        capacity: Jacobians at most.
        key: What distances between states are taken of.
        variable: Of which input they are the Jacobians.
        probing: How they are measured.
        store: Where they are kept.
        path: A file in which the snapshots with a tag are listed, for `restore`; None for none.
    """

    def __init__(
        self,
        grid: Grid,
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
        self.periodic = grid.boundary == "periodic"
        self._capacity, self._path = capacity, path
        self._probing, self._store = probing or Probing(), store or JacobianStore()
        self._jacobians: list[Jacobian] = []
        self._keys: list[Tensor] = []
        self._listed: list[dict[str, Any]] = []
        self._mean: Jacobian | None = None

    def __len__(self) -> int:
        return len(self._jacobians)

    @property
    def full(self) -> bool:
        """Whether there is no room for another snapshot."""
        return len(self) == self._capacity

    @property
    def tags(self) -> list[int]:
        """What the listed snapshots were added with."""
        return [one["tag"] for one in self._listed]

    @property
    def error(self) -> float:
        """The largest share that any Jacobian lost by the way it is kept."""
        return max((one.error for one in self._jacobians), default=0.0)

    def add(self, step: Step, tag: int | None = None, store: JacobianStore | None = None) -> None:
        """The Jacobian at every state of a step's batch; D probes each, where it is not known.

        Args:
            step: Where.
            tag: A number by which to list them, see `restore`; None does not.
            store: Where to keep them, if not with the others.

        Raises:
            InputError: If there is no room.
        """
        if len(self) + len(step.state) > self._capacity:
            raise InputError(
                "bank",
                got=f"{len(step.state)} more than the {len(self)} snapshots",
                expected=f"at most {self._capacity}",
            )
        step = replace(step, variable=self.variable)
        found = (store or self._store).fetch(step, self.form, self._probing)
        for row, jacobian in enumerate(found):
            forcing = None if step.forcing is None else step.forcing[row : row + 1]
            self._jacobians.append(jacobian)
            self._keys.append(self.key(step.state[row : row + 1], forcing)[0].cpu())
            if tag is not None:
                one = {"state": step.state[row], "stepped": step.stepped[row]}
                here = {name: value.clone() for name, value in one.items()}
                copy = None if forcing is None else forcing.clone()
                self._listed.append({**here, "forcing": copy, "tag": tag})
        self._mean = None
        if tag is not None:
            self._write()

    def restore(self, solver: Solver, below: int, store: JacobianStore | None = None) -> None:
        """Add again what the file lists, up to the first tag that is not below `below`.

        Args:
            solver: What is asked where a Jacobian is gone.
            below: The rest is forgotten.
            store: As for `add`.

        Raises:
            InputError: If the file is not a list of snapshots.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            listed = torch.load(self._path, weights_only=True)
            listed = listed[: next((i for i, s in enumerate(listed) if s["tag"] >= below), None)]
            steps = [
                Step(solver, one["state"][None], one["forcing"], one["stepped"][None])
                for one in listed
            ]
        except Exception as error:  # whatever a file that is not ours makes torch raise
            raise InputError(
                f"list of snapshots {self._path}",
                got="another file, or half of it",
                expected="what a run of zopde wrote",
                remedy="start over with --overwrite",
            ) from error
        for step, one in zip(steps, listed, strict=True):
            self.add(step, one["tag"], store)
        self._write()

    def jacobian(self, k: int) -> Jacobian:
        """J_k."""
        return self._jacobians[k]

    @property
    def keys(self) -> Float[Tensor, "snapshots key_channel *space"]:
        """Where the snapshots lie."""
        return torch.stack(self._keys)

    @property
    def mean(self) -> Jacobian:
        """The mean of all of them."""
        if self._mean is None:
            self._mean = self.form.mean(self._jacobians)
        return self._mean

    def differences(
        self, state: State, forcing: Forcing | None
    ) -> Float[Tensor, "snapshots batch key_channel *space"]:
        """Every state's key less every snapshot's."""
        # Differences first: squares of the norms would leave nothing of a small distance.
        key = self.key(state, forcing)
        return key - self.keys.to(key)[:, None]

    def distances(self, state: State, forcing: Forcing | None) -> Float[Tensor, "batch snapshots"]:
        """Root mean square distance of every state to every snapshot, in standard deviations."""
        return self.differences(state, forcing).square().flatten(2).mean(dim=2).sqrt().T

    def _write(self) -> None:
        if self._path is not None:
            with replacing(self._path) as partial, partial.open("wb") as file:
                torch.save(self._listed, file)


def form_for(
    grid: Grid,
    variable: Variable,
    capacity: int,
    limit_gib: float = 4.0,
    radius: Sequence[int] = (),
    rank: int = 0,
) -> Form:
    """Whole Jacobians where so many fit into so many GiB, compressed ones where only they do.

    Args:
        grid: The solver's grid.
        variable: Of which input.
        capacity: How many.
        limit_gib: GiB at most.
        radius: Near field of the compressed form; empty refuses to compress.
        rank: Of the compressed form's rest.

    Raises:
        InputError: If neither fits.
    """
    varied = grid.state_shape if variable == "state" else grid.forcing_shape
    rows, columns = (torch.Size(shape).numel() for shape in (varied, grid.state_shape))
    dense = DenseForm(rows, columns)
    sizes, needed = "", 4 * dense.size * capacity / _GIB
    if needed <= limit_gib:
        return dense
    if radius and rank:
        small = CompressedForm(grid, variable, tuple(radius), rank)
        less = 4 * small.size * capacity / _GIB
        if less <= limit_gib:
            return small
        sizes = f", {less:.3g} GiB compressed"
    raise InputError(
        "bank",
        got=f"{capacity} x {rows:,} x {columns:,} entries, {needed:.3g} GiB{sizes}",
        expected=f"at most {limit_gib:.3g} GiB",
        remedy="take fewer snapshots or a coarser grid, raise the limit, or use coloured",
    )


def _divided(field: Tensor, scale: Tensor) -> Tensor:
    return field.detach() / scale.to(field).view(-1, *[1] * (field.dim() - 2))
