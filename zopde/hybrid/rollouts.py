"""Predictions of any length, and how far they are from their reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zopde.contracts import Solver, State, seedable, seeded


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
    states, seeds = [initial], seeds if seedable(solver) else ()
    with torch.no_grad():
        for t in range(steps):
            now = seeded(solver, seeds[t]) if seeds else solver
            states.append(now.step(states[-1], forcing(t) if forcing else None))
            if progress:
                progress(1)
    return torch.stack(states, dim=1)


@dataclass(frozen=True)
class RolloutError:
    """Error of a batch of rollouts against their references.

    Args:
        mae: (batch, time), mean absolute error over channels and cells, in the state's units.
        relative: (batch, time), L2 norm of the error over the L2 norm of the reference.
        diverged: (batch,), True where a rollout stopped being finite or grew past
            `limit` times the reference's largest value.
    """

    mae: Float[Tensor, "batch time"]
    relative: Float[Tensor, "batch time"]
    diverged: Bool[Tensor, " batch"]

    @property
    def mean_mae(self) -> Float[Tensor, " batch"]:
        """Mean over time of each run; infinite for a run that diverged, never left out."""
        mean = self.mae.mean(dim=1)
        return torch.where(self.diverged, torch.full_like(mean, float("inf")), mean)


def rollout_error(
    predicted: Float[Tensor, "batch time channel *space"],
    reference: Float[Tensor, "batch time channel *space"],
    limit: float = 100.0,
) -> RolloutError:
    """Compare rollouts with their references, step by step.

        mae[t] = mean_{c, x} |u - r|,   relative[t] = ||u - r||_2 / ||r||_2

    Args:
        predicted: (batch, time, channel, *space); drop the common initial state first.
        reference: Same shape.
        limit: A run whose largest magnitude exceeds `limit` times the reference's diverged.
    """
    difference = (predicted - reference).flatten(2)
    norm = reference.flatten(2).norm(dim=2).clamp_min(torch.finfo(reference.dtype).tiny)
    largest = predicted.flatten(1).abs().amax(dim=1)
    bound = limit * reference.flatten(1).abs().amax(dim=1)
    return RolloutError(
        mae=difference.abs().mean(dim=2),
        relative=difference.norm(dim=2) / norm,
        diverged=~(largest <= bound),  # the negation also catches NaN
    )
