"""Stepping on and on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Solver, State, seeded


def rollout(
    solver: Solver,
    initial: State,
    steps: int,
    forcing: Callable[[int], Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
    seeds: Sequence[int] = (),
) -> Float[Tensor, "batch time channel *space"]:
    """Predict `steps` steps from `initial`, without a gradient.

        u[0] = initial,   u[t + 1] = step(u[t], f[t])

    A state that stops being finite stays in the result, so that a divergence is seen.

    Args:
        solver: What to step: a solver, or a `CorrectedSolver`.
        initial: (batch, channel, *space).
        steps: Number of steps, >= 0.
        forcing: Step number -> (batch, forcing_channel, *space).
        progress: Called with 1 after every step.
        seeds: One for every step, with which the solver's noise is fixed; none leaves it.

    Returns:
        (batch, steps + 1, channel, *space); entry 0 is `initial`.
    """
    states = [initial]
    with torch.no_grad():
        for t in range(steps):
            now = seeded(solver, seeds[t]) if seeds else solver
            states.append(now.step(states[-1], forcing(t) if forcing else None))
            if progress:
                progress(1)
    return torch.stack(states, dim=1)
