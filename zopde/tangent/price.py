"""What a tangent takes besides solver steps: seconds of its fit and of a product, measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zopde.contracts import Domain, Solver
from zopde.interface import Pullback, Step, Variable, Watch, by_variable
from zopde.interface.vjp import varied_shape
from zopde.seeding import generator
from zopde.tangent.fit import batches
from zopde.tangent.net import Tangent
from zopde.tangent.pairs import Base, Pairs
from zopde.tangent.pullback import TangentPullback
from zopde.tangent.rounds import Learning
from zopde.timing import median_seconds
from zopde.training import Backprop, Optimise

_BASES = 16  # states of the sample: more than an iteration takes
_STATES = 4  # of a product


def unfitted(grid: Domain, inputs: Sequence[Variable], width: int, like: Tensor) -> Tangent:
    """A tangent as a fit would make it, but for its weights; it knows no solver.

    Args:
        grid: The solver's.
        inputs: Which are varied.
        width: Channels of every level.
        like: Of whose dtype and device it is.
    """
    drive = like.new_ones(len(grid.forcing_channels)) if grid.forcing_channels else None
    scale = like.new_ones(len(grid.channels))
    return Tangent(grid, scale, drive, "forcing" in inputs, 1.0, width).to(like)


def as_dear(tangent: Tangent, inputs: Sequence[Variable]) -> Pullback:
    """Products that take as long as a fitted tangent's, and are watched by nobody."""
    unwatched = Watch(torch.Generator(), at=())
    return by_variable({v: TangentPullback(tangent, watch=unwatched) for v in inputs})


def seconds_of(
    solver: Solver, inputs: Sequence[Variable], learning: Learning, like: Tensor
) -> tuple[float, float]:
    """Time two iterations of a fit and a product, on random numbers; no solver step is made.

    Args:
        solver: Whose grid counts.
        inputs: Which are varied.
        learning: How long the fit will be.
        like: Of whose dtype and device the states are.

    Returns:
        Seconds of all iterations of all rounds, and of a product of one state in a batch.
    """
    grid, draw = solver.grid, generator(0, "probes")

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(like)

    state, space = drawn(_BASES, *grid.state_shape), [1] * len(grid.shape)
    forcing = drawn(_BASES, *grid.forcing_shape) if grid.forcing_channels else None
    many, pairs = (_BASES, learning.directions), dict[Variable, Pairs]()
    for variable in inputs:
        inside = varied_shape(grid, variable)
        moved, response = drawn(*many, *inside).half(), drawn(*many, *grid.state_shape).half()
        units = state.new_ones(_BASES, inside[0], *space)
        sizes = state.new_ones(*many, len(grid.channels), *space)
        columns = state, forcing, moved, response, units, sizes
        pairs[variable] = Pairs.of(variable, dict(zip(Base._fields, columns, strict=True)))
    tangent, optimise = unfitted(grid, inputs, learning.width, like), Optimise("muon", 1e-3)
    optimizer, objective = optimise.build(tangent), batches(pairs, 0)(0)

    def iteration() -> None:
        found = Backprop()(tangent, objective, 0)
        optimise.update(optimizer, tangent, found.active, 0, 2)

    few = slice(_STATES)
    step = Step(solver, state[few], None if forcing is None else forcing[few], state[few])
    product, rounds = as_dear(tangent, inputs), len(learning.bases(1, len(inputs)))
    seconds = median_seconds(lambda: product(step, state[few]), 2)
    return median_seconds(iteration, 2) * learning.iterations * rounds, seconds / _STATES
