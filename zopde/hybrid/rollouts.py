"""Predictions of any length, their reference on the coarse grid, and how far the two differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zopde.contracts import Domain, Solver, State, seedable, seeded
from zopde.errors import InputError
from zopde.hybrid.past import past_of
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

    A state that stops being finite stays in the result, so that a divergence is seen. A network
    that sees earlier states (`CorrectedSolver.history`) is given those of this run; `initial`
    stands for those that would come before it.

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
    history = getattr(solver, "history", 0)
    with torch.no_grad():
        for t in range(steps):
            now = seeded(solver, seeds[t]) if seeds else solver
            # Copies: a solver may write into its state, and answer in the same memory every time.
            driven = forcing(t) if forcing else None
            past = {"past": past_of(states, history)} if history else {}
            step: Callable[..., Tensor] = now.step
            states.append(step(states[-1].clone(), driven, **past).clone())
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

    mae: Float[Tensor, "batch time"]  # in the state's units; NaN where nothing was measured
    relative: Float[Tensor, "batch time"]  # without a unit
    # In standard deviations of the reference; infinite where the rollout diverged, NaN for a
    # channel whose reference never varies
    nrmse: Float[Tensor, "batch channel"]
    correlation: Float[Tensor, "batch time"]  # in [-1, 1]; NaN where the reference is uniform
    diverged: Bool[Tensor, " batch"]  # whether the rollout did
    seen: Bool[Tensor, "batch time"]  # whether anything of the reference was measured

    def over_time(self, values: Float[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
        """Mean of each run over the times at which its reference was measured."""
        if bool(self.seen.all()):
            return values.mean(dim=1)
        return torch.where(self.seen, values, 0.0).sum(dim=1) / self.seen.sum(dim=1)

    @property
    def mean_mae(self) -> Float[Tensor, " batch"]:
        """Mean over time of each run; infinite for a run that diverged, never left out."""
        mean = self.over_time(self.mae)
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

    Means and norms are over the fluid, and by the weights of the cells, where the grid has them;
    and over what was measured, if the reference is NaN elsewhere.

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
    there, of = ~reference.isnan(), torch.as_tensor(weights).to(reference)
    reference = torch.where(there, reference, 0.0)
    difference = torch.where(there, predicted - reference, 0.0)
    norm = (reference * of.sqrt()).flatten(2).norm(dim=2)
    largest = predicted.flatten(1).abs().amax(dim=1)
    bound = limit * reference.flatten(1).abs().amax(dim=1)
    diverged = ~(largest <= bound)  # the negation also catches NaN
    nrmse, correlation = _in_deviations(predicted, reference, weights, there)
    seen = there.flatten(2).any(dim=2)
    relative = (difference * of.sqrt()).flatten(2).norm(dim=2)
    relative = relative / norm.clamp_min(torch.finfo(reference.dtype).tiny)
    return RolloutError(
        mae=_mean(difference.abs().flatten(2), (there * of).flatten(2), there, 2).squeeze(2),
        relative=torch.where(seen, relative, torch.nan),
        nrmse=nrmse.masked_fill(diverged[:, None], float("inf")),
        correlation=correlation,
        diverged=diverged,
        seen=seen,
    )


def _mean(values: Tensor, shares: Tensor, there: Tensor, *dims: int) -> Tensor:
    """Over dims, which are kept; each value by its share, which is 0 where nothing is there."""
    total = (values * shares).mean(dim=dims, keepdim=True)
    return total if bool(there.all()) else total / shares.mean(dim=dims, keepdim=True)


def _in_deviations(
    predicted: Tensor, reference: Tensor, weights: Tensor | float, there: Tensor
) -> tuple[Tensor, Tensor]:
    """`nrmse` and `correlation` of (batch, time, channel, cell), run by run: it is in doubles."""
    lowest, highest = (torch.where(there, reference, end) for end in (torch.inf, -torch.inf))
    varies = highest.amax(dim=(0, 1, 3)) > lowest.amin(dim=(0, 1, 3))
    deviation = reference.std(dim=(0, 1, 3), correction=0).double()
    if not bool(there.all()):
        known = zip(reference.unbind(2), there.unbind(2), strict=True)
        deviation = torch.stack([r[where].double().std(correction=0) for r, where in known])
    nrmse, correlation = [], []
    for *run, where in zip(predicted, reference, there, strict=True):
        u, r = (states.double() for states in run)
        off = torch.where(where, u - r, 0.0).square()
        of_run = _mean(off, where * weights, where, 0, 2).flatten().sqrt() / deviation
        nrmse.append(of_run.masked_fill(~varies, float("nan")))
        known_here = where[:, varies], weights
        a, b = (_anomalies(states[:, varies], deviation[varies], *known_here) for states in (u, r))
        of_u, of_r = a.norm(dim=1), b.norm(dim=1)
        found = ((a * b).sum(dim=1) / (of_u * of_r)).nan_to_num(0.0, 0.0, 0.0)
        correlation.append(found.masked_fill((of_r == 0) & of_u.isfinite(), float("nan")))
    return torch.stack(nrmse), torch.stack(correlation)


def _anomalies(states: Tensor, deviation: Tensor, there: Tensor, weights: Tensor | float) -> Tensor:
    """(time, channel * cell): without each channel's mean; 0 where it is uniform or unknown."""
    low, high = (torch.where(there, states, end) for end in (torch.inf, -torch.inf))
    uniform = low.amin(dim=2, keepdim=True) >= high.amax(dim=2, keepdim=True)
    states = torch.where(there, states, 0.0)
    mean = _mean(states, there * weights, there, 2)
    around = (states - mean) / deviation[:, None]
    return (around * weights**0.5).masked_fill(uniform | ~there, 0.0).flatten(1)
