"""Predictions of any length, their reference on the coarse grid, and how far the two differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zopde.contracts import Domain, Solver, State, seedable, seeded
from zopde.errors import InputError
from zopde.validate import check_not_negative, check_positive, checked


@checked
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
    check_not_negative("steps", steps)
    states, seeds = [initial], seeds if seedable(solver) else ()
    with torch.no_grad():
        for t in range(steps):
            now = seeded(solver, seeds[t]) if seeds else solver
            # Copies: a solver may write into its state, and answer in the same memory every time.
            driven = forcing(t) if forcing else None
            states.append(now.step(states[-1].clone(), driven).clone())
            if progress:
                progress(1)
    return torch.stack(states, dim=1)


@checked
def downsample(
    fine: Float[Tensor, "batch channel *fine"],
    shape: tuple[int, ...],
    weights: Float[Tensor, "*fine"] | None = None,
) -> Float[Tensor, "batch channel *coarse"]:
    """Bring a fine state to a coarse grid: a coarse cell gets the mean of the fine cells in it.

        coarse[I] = (1 / r^n) sum over the r^n fine cells i inside I of fine[i]

    It keeps the mean of every channel, and commutes with itself: 4 x at once equals 2 x twice.
    Cells of weight 0, such as land, do not count, whatever they hold, NaN included.

    Args:
        fine: (batch, channel, *fine), cell-centred values.
        shape: Cells of the coarse grid.
        weights: (*fine), of a weighted mean, >= 0, as `grid.cell_weights`; None: all alike.

    Returns:
        (batch, channel, *shape), the same dtype; 0 where all weights are.

    Raises:
        InputError: If a coarse count does not divide the fine one, or weights have another shape
            or are negative.
    """
    space = tuple(fine.shape[2:])
    if weights is not None and not (weights.shape == space and (weights >= 0).all()):
        got = f"shape {tuple(weights.shape)}, least {float(weights.min()):g}"
        raise InputError("downsample weights", got=got, expected=f"{space}, numbers >= 0")
    if len(space) != len(shape) or any(f % c for f, c in zip(space, shape, strict=True)):
        raise InputError("downsample", got=f"{space} -> {shape}", expected="divisors, cell by cell")
    split = [part for f, c in zip(space, shape, strict=True) for part in (c, f // c)]
    if weights is not None:
        weights = weights.to(fine)
        shares = downsample(weights.expand(1, 1, *space), shape)
        total = downsample(torch.where(weights > 0, fine * weights, 0.0), shape)
        return torch.where(shares > 0, total / shares, 0.0)
    blocks = fine.reshape(*fine.shape[:2], *split)
    return blocks.mean(dim=tuple(range(3, 3 + 2 * len(shape), 2)))


@dataclass(frozen=True)
class RolloutError:
    """Tells how far a batch of rollouts is from its references; see `rollout_error`."""

    mae: Float[Tensor, "batch time"]  # in the state's units
    relative: Float[Tensor, "batch time"]  # without a unit
    # In standard deviations of the reference; infinite where the rollout diverged, NaN for a
    # channel whose reference never varies
    nrmse: Float[Tensor, "batch channel"]
    correlation: Float[Tensor, "batch time"]  # in [-1, 1]; NaN where the reference is uniform
    diverged: Bool[Tensor, " batch"]  # whether the rollout did

    @property
    def mean_mae(self) -> Float[Tensor, " batch"]:
        """Mean over time of each run; infinite for a run that diverged, never left out."""
        mean = self.mae.mean(dim=1)
        return torch.where(self.diverged, torch.full_like(mean, float("inf")), mean)

    def steps_correlated(self, least: float = 0.8) -> Int[Tensor, " batch"]:
        """The step at which the correlation of each run first is below `least`; else the last.

        Args:
            least: A correlation, in [-1, 1].
        """
        below = self.correlation < least
        whole = torch.full_like(below[:, 0], below.shape[1], dtype=torch.int64)
        return torch.where(below.any(dim=1), below.int().argmax(dim=1) + 1, whole)


@checked
def rollout_error(
    predicted: Float[Tensor, "batch time channel *space"],
    reference: Float[Tensor, "batch time channel *space"],
    limit: float = 100.0,
    grid: Domain | None = None,
) -> RolloutError:
    """Compare rollouts with their references, step by step.

        mae[t] = mean_{c, x} |u - r|,   relative[t] = ||u - r||_2 / ||r||_2
        nrmse[c] = sqrt(mean_{t, x} (u - r)^2) / s_c,   s_c = std of r over all runs, t and x
        correlation[t] = sum_{c, x} u' r' / sqrt(sum_{c, x} u'^2 sum_{c, x} r'^2),
        u' = (u - mean_x u) / s_c,   r' likewise

    The correlation is Pearson's, over all cells and channels. It does not see a wrong mean, nor a
    factor that all of u' has. A channel whose reference never varies is left out of it. The
    correlation of a state that is uniform or not finite is 0.

    Means and norms are over the fluid, and by the weights of the cells, where the grid has them.

    Args:
        predicted: (batch, time, channel, *space); drop the common initial state first.
        reference: Same shape.
        limit: A run that is not finite, or whose largest magnitude exceeds `limit` times the
            reference's, diverged.
        grid: Whose mask and weights count; None: all cells count alike.
    """
    check_positive("limit", limit)
    weights: Tensor | float = 1.0
    if grid is None:
        predicted, reference = predicted.flatten(3), reference.flatten(3)
    else:
        predicted, reference = grid.fluid_values(predicted), grid.fluid_values(reference)
        if grid.cell_weights is not None:
            weights = grid.fluid_values(grid.cell_weights).to(reference.device)
            weights = weights / weights.mean()
    difference, of = predicted - reference, torch.as_tensor(weights).to(reference)
    norm = (reference * of.sqrt()).flatten(2).norm(dim=2)
    largest = predicted.flatten(1).abs().amax(dim=1)
    bound = limit * reference.flatten(1).abs().amax(dim=1)
    diverged = ~(largest <= bound)  # the negation also catches NaN
    nrmse, correlation = _in_deviations(predicted, reference, weights)
    return RolloutError(
        mae=(difference.abs() * of).flatten(2).mean(dim=2),
        relative=(difference * of.sqrt()).flatten(2).norm(dim=2)
        / norm.clamp_min(torch.finfo(reference.dtype).tiny),
        nrmse=nrmse.masked_fill(diverged[:, None], float("inf")),
        correlation=correlation,
        diverged=diverged,
    )


def _in_deviations(
    predicted: Tensor, reference: Tensor, weights: Tensor | float
) -> tuple[Tensor, Tensor]:
    """`nrmse` and `correlation` of (batch, time, channel, cell), run by run: it is in doubles."""
    lowest, highest = reference.amin(dim=(0, 1, 3)), reference.amax(dim=(0, 1, 3))
    varies = highest > lowest
    deviation = reference.std(dim=(0, 1, 3), correction=0).double()
    nrmse, correlation = [], []
    for run in zip(predicted, reference, strict=True):
        u, r = (states.double() for states in run)
        of_run = ((u - r).square() * weights).mean(dim=(0, 2)).sqrt() / deviation
        nrmse.append(of_run.masked_fill(~varies, float("nan")))
        a, b = (_anomalies(states[:, varies], deviation[varies], weights) for states in (u, r))
        of_u, of_r = a.norm(dim=1), b.norm(dim=1)
        found = ((a * b).sum(dim=1) / (of_u * of_r)).nan_to_num(0.0, 0.0, 0.0)
        correlation.append(found.masked_fill((of_r == 0) & of_u.isfinite(), float("nan")))
    return torch.stack(nrmse), torch.stack(correlation)


def _anomalies(states: Tensor, deviation: Tensor, weights: Tensor | float) -> Tensor:
    """(time, channel * cell): without each channel's mean; exactly 0 where it is uniform."""
    uniform = states.amin(dim=2, keepdim=True) == states.amax(dim=2, keepdim=True)
    around = (states - (states * weights).mean(dim=2, keepdim=True)) / deviation[:, None]
    return (around * weights**0.5).masked_fill(uniform, 0.0).flatten(1)
