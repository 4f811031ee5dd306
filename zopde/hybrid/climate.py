"""How far the statistics of long predictions are off, whatever the order of their states."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import Domain
from zopde.validate import checked


class ClimateError(NamedTuple):
    """Tells how far means and variances in time are off; see `climate_error`."""

    mean: Tensor  # (channel,), in standard deviations of the reference
    variance: Tensor  # (channel,), in variances of the reference


@checked
def climate_error(
    predicted: Float[Tensor, "batch time channel *space"],
    reference: Float[Tensor, "batch time channel *space"],
    grid: Domain,
) -> ClimateError:
    """Compare mean and variance in time, cell by cell: what is left of a chaotic run.

        mean error[c] = sqrt( mean_x b(m_u - m_r)^2 ) / s_c,
        variance error[c] = sqrt( mean_x b(v_u - v_r)^2 ) / s_c^2

    m and v are mean and variance in time of each run and cell, s_c^2 the mean of v_r. The mean over
    x is over the fluid, by the weights of the cells. b^2 is the squared bias over n runs,

        b(d)^2 = (mean_i d_i)^2 - sum_i (d_i - mean d)^2 / (n (n - 1))

    : what the chance of n finite runs adds is taken off, so that of two equal climates the error is
    0, give or take. One run alone has no such estimate, and its error holds the chance, too.

    Args:
        predicted: Runs of any length; drop the common initial state first.
        reference: Same shape. States with NaN, measured in part, are left out of both.
        grid: Of both.

    Returns:
        Infinite where a prediction is not finite, NaN for a channel whose reference never varies.
    """
    weights = torch.ones(()) if grid.cell_weights is None else grid.cell_weights
    share = grid.fluid_values(weights.expand(grid.shape)).double().to(reference.device)
    share = share / share.sum()
    means, variances = [], []
    for run in zip(predicted, reference, strict=True):
        whole = ~grid.fluid_values(run[1]).isnan().flatten(1).any(dim=1)
        u, r = (grid.fluid_values(states[whole]).double() for states in run)
        means.append(u.mean(dim=0) - r.mean(dim=0))
        of_u, of_r = ((x - x.mean(dim=0)).square().mean(dim=0) for x in (u, r))
        variances.append(torch.stack([of_u - of_r, of_r]))
    of_reference = torch.stack([both[1] for both in variances]).mean(dim=0)
    square = (of_reference * share).sum(dim=1)
    mean = _bias(torch.stack(means), share) / square.sqrt()
    variance = _bias(torch.stack([both[0] for both in variances]), share) / square
    finite = bool(grid.fluid_values(predicted).isfinite().all())
    found = (e if finite else torch.full_like(e, torch.inf) for e in (mean, variance))
    return ClimateError(*(e.masked_fill(square == 0, torch.nan) for e in found))


def _bias(differences: Tensor, share: Tensor) -> Tensor:
    """Of (batch, channel, cell): root mean square over the cells, free of the chance of runs."""
    square = differences.mean(dim=0).square()
    if len(differences) > 1:
        square = square - differences.var(dim=0) / len(differences)
    total: Tensor = (square * share).sum(dim=1)
    return total.clamp_min(0).sqrt()
