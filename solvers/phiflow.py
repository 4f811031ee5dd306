"""The bridge to PhiFlow: the only file that knows its calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from phi.flow import PERIODIC, Box, CenteredGrid, Field, batch, channel, spatial
from phi.physics import advect, diffuse
from phiml import math
from phiml.backend.torch import TORCH
from torch import Tensor

from zopde.grid import Grid

Step: TypeAlias = Callable[[Tensor, Tensor], Tensor]

__all__ = ["advect", "compiled", "diffuse", "from_field", "like", "to_field"]


def to_field(state: Tensor, grid: Grid) -> Field:
    """A periodic, cell-centred PhiFlow vector field from (batch, channel, *space)."""
    names = ",".join(grid.dims)
    values = math.wrap(state, batch("states"), channel(vector=names), spatial(names))
    box = Box(**dict(zip(grid.dims, grid.extent, strict=True)))
    return CenteredGrid(values, PERIODIC, box)


def from_field(field: Field, grid: Grid) -> Tensor:
    """(batch, channel, *space) from a PhiFlow vector field."""
    native: Tensor = field.values.native(["states", "vector", *grid.dims])
    return native


@contextmanager
def like(state: Tensor) -> Iterator[None]:
    """PhiFlow computes in the precision and on the device of `state` inside this context."""
    bits = torch.finfo(state.dtype).bits
    before = TORCH.get_default_device()
    TORCH.set_default_device(TORCH.get_device(state))
    try:
        # `with TORCH` makes it PhiFlow's default backend, whatever the user chose elsewhere.
        with TORCH, math.precision(bits):
            yield
    finally:
        TORCH.set_default_device(before)


def compiled(step: Step, state: Tensor, forcing: Tensor) -> Step:
    """Record PhiFlow's torch operations once, for one shape, dtype and device.

    PhiFlow spends about 20 ms of Python on every call, whatever the batch; the recorded
    operations give the same numbers, bit for bit, without it, and autograd sees through them.
    """
    with warnings.catch_warnings():
        # Every size that the tracer warns of is fixed by the key under which this is kept.
        warnings.simplefilter("ignore")
        with like(state):
            traced = torch.jit.trace(step, (state.detach(), forcing.detach()), check_trace=False)

    def run(state: Tensor, forcing: Tensor) -> Tensor:
        # Without the optimiser the operations stay the same ones at every call, which an
        # exact resume needs.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            answer: Tensor = traced(state, forcing)
        return answer

    return run
