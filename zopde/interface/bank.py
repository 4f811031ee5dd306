"""Dense Jacobians of a solver's step at a few states, each measured once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.checks import check_count
from zopde.errors import InputError
from zopde.grid import Grid
from zopde.interface.dense import jacobians
from zopde.interface.vjp import Step, Variable
from zopde.protocols import Forcing, State
from zopde.zo.cge import Scheme

_GIB = 2**30


@final
class Bank:
    """Transposed Jacobians J_k^T at snapshots (u_k, f_k), in float32.

    With a `path` they lie in a memory-mapped file, beside a small one with the snapshots; a bank
    opened on a file that is there holds what was measured before.

    Args:
        grid: The solver's grid.
        capacity: Jacobians at most.
        scale: (channel,), by which a state's channels are divided before distances are taken.
        forcing_scale: (forcing_channel,), likewise; None leaves the forcing out of distances,
            which suits a forcing that the step merely adds.
        variable: Of which input they are the Jacobians.
        path: The file, or None for memory.
        limit_gib: More GiB than this are refused.

    Raises:
        InputError: If `capacity` Jacobians of D x D entries exceed `limit_gib`, or a file of
            other sizes lies at `path`.
    """

    def __init__(
        self,
        grid: Grid,
        capacity: int,
        scale: Float[Tensor, " channel"],
        forcing_scale: Float[Tensor, " forcing_channel"] | None = None,
        variable: Variable = "state",
        path: Path | None = None,
        limit_gib: float = 4.0,
    ) -> None:
        check_count("snapshots", capacity)
        varied = grid.state_shape if variable == "state" else grid.forcing_shape
        rows, columns = (torch.Size(shape).numel() for shape in (varied, grid.state_shape))
        check_size(rows, columns, capacity, limit_gib)
        self.variable, self._path = variable, path
        self._scale, self._forcing_scale = scale, forcing_scale
        size = (capacity, rows, columns)
        if path is None:
            self._jacobians = torch.empty(size)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            count = capacity * rows * columns
            flat = torch.from_file(str(path), shared=True, size=count, dtype=torch.float32)
            self._jacobians = flat.view(size)
        self._size = size
        self._mean: Tensor | None = None
        self._kept = self._read()

    def __len__(self) -> int:
        return len(self._kept["keys"])

    @property
    def full(self) -> bool:
        """Whether there is no room for another snapshot."""
        return len(self) == self._size[0]

    @property
    def tags(self) -> list[int]:
        """What each snapshot was added with."""
        return list(self._kept["tags"])

    def add(
        self, step: Step, mu: float, scheme: Scheme = "forward", states: int = 512, tag: int = -1
    ) -> None:
        """Measure the Jacobian at every state of a step's batch; D probes each.

        Args:
            step: Where; of the bank's variable.
            mu: Finite-difference step, in the units of the varied input.
            scheme: "forward" or "central".
            states: States of a solver call at most.
            tag: Any number to know these snapshots by, see `keep`.

        Raises:
            InputError: If there is no room.
        """
        for row in range(len(step.state)):
            if self.full:
                raise InputError("bank", got="one more snapshot", expected=f"{len(self)} at most")
            forcing = None if step.forcing is None else step.forcing[row : row + 1]
            state, stepped = step.state[row : row + 1], step.stepped[row : row + 1]
            one = Step(step.solver, state, forcing, stepped, self.variable)
            self._jacobians[len(self)] = jacobians(one, mu, scheme, states)[0].float().cpu()
            self._kept["keys"].append(self.key(state, forcing)[0].cpu())
            self._kept["tags"].append(tag)
            self._changed()

    def keep(self, below: int) -> None:
        """Forget the snapshots from the first whose tag is not below `below`."""
        count = next((i for i, tag in enumerate(self.tags) if tag >= below), len(self))
        if count < len(self):
            self._kept = {name: values[:count] for name, values in self._kept.items()}
            self._changed()

    def key(self, state: State, forcing: Forcing | None) -> Float[Tensor, "batch d"]:
        """Where states lie for the sake of distances."""
        parts = [_divided(state, self._scale)]
        if self._forcing_scale is not None and forcing is not None:
            parts.append(_divided(forcing, self._forcing_scale))
        return torch.cat(parts, dim=1)

    def distances(self, state: State, forcing: Forcing | None) -> Float[Tensor, "batch snapshots"]:
        """Root mean square distance of every state to every snapshot, in standard deviations."""
        key = self.key(state, forcing)
        known = torch.stack(self._kept["keys"]).to(key)
        # Differences first: squares of the norms would leave nothing of a small distance.
        squares = [(key - one).square().mean(dim=1) for one in known]
        return torch.stack(squares, dim=1).sqrt()

    def transposed(self, k: int) -> Float[Tensor, "inputs outputs"]:
        """J_k^T."""
        return self._jacobians[k]

    @property
    def mean(self) -> Float[Tensor, "inputs outputs"]:
        """The mean of all J_k^T."""
        if self._mean is None:
            total = torch.zeros(self._size[1:])
            for k in range(len(self)):
                total += self._jacobians[k]
            self._mean = total / len(self)
        return self._mean

    def _changed(self) -> None:
        self._mean = None
        if self._path is not None:  # the Jacobians first: what is listed must be there
            partial = self._list.with_suffix(".partial")
            torch.save({"size": list(self._size), **self._kept}, partial)
            partial.replace(self._list)

    def _read(self) -> dict[str, list[Any]]:
        if self._path is None or not self._list.exists():
            return {"keys": [], "tags": []}
        kept: dict[str, list[Any]] = torch.load(self._list, weights_only=True)
        size = tuple(kept.pop("size"))
        if size != self._size:
            raise InputError(
                f"bank {self._path}",
                got=f"{size[0]} Jacobians of {size[1]} x {size[2]}",
                expected=f"{self._size[0]} of {self._size[1]} x {self._size[2]}",
                remedy="delete it",
            )
        return kept

    @property
    def _list(self) -> Path:
        assert self._path is not None
        return self._path.with_suffix(".pt")


def check_size(rows: int, columns: int, capacity: int, limit_gib: float) -> None:
    """Require that so many Jacobians fit into so many GiB."""
    needed = 4 * rows * columns * capacity / _GIB
    if needed > limit_gib:
        raise InputError(
            "bank",
            got=f"{capacity} x {rows:,} x {columns:,} entries, {needed:.3g} GiB",
            expected=f"at most {limit_gib:.3g} GiB",
            remedy="take fewer snapshots or a coarser grid, raise the limit, or use coloured",
        )


def _divided(field: Tensor, scale: Tensor) -> Tensor:
    shaped = scale.to(field).view(-1, *[1] * (field.dim() - 2))
    return (field.detach() / shaped).flatten(1)
