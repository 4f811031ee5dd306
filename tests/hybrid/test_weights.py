"""Losses, errors and means by the weights of the cells, against sums by hand."""

import numpy as np
import pytest
import torch

from zopde import Grid, UnrolledObjective, Window, downsample, rollout_error
from zopde.errors import InputError

MASK = np.array([[True, True, False, True], [True, True, True, True]])
WEIGHTS = np.array([[1.0], [3.0]])


@pytest.fixture
def grid():
    return Grid((2, 4), (1.0, 1.0), 0.1, ("u", "T"), mask=MASK, weights=WEIGHTS)


def drawn(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))) + 0.5


def by_hand(field):
    """Weighted mean of (..., y, x) over the fluid."""
    weights = torch.tensor(MASK * WEIGHTS).to(field)
    return (field.nan_to_num() * weights).sum(dim=(-2, -1)) / weights.sum()


def test_a_loss_is_a_weighted_mean_exact(grid):
    class Still:
        def step(self, state, forcing=None):
            return state

    solver, scale = Still(), torch.tensor([2.0, 5.0])
    solver.grid = grid
    state, target = drawn(3, 2, 2, 4), drawn(3, 1, 2, 2, 4)
    loss = UnrolledObjective(solver, Window(state, target), scale)(lambda v, _: 0.1 * v, 1)
    squares = ((1.1 * state - target[:, 0]) / scale[:, None, None]).square()
    assert torch.allclose(loss, by_hand(squares).mean())


def test_errors_of_a_rollout_are_weighted_and_know_of_no_land_exact(grid):
    predicted, reference = drawn(2, 5, 2, 2, 4), 2 * drawn(2, 5, 2, 2, 4)
    predicted[..., 0, 2] = torch.nan
    reference[..., 0, 2] = 1e9
    found = rollout_error(predicted, reference, grid=grid)
    off = predicted - reference
    assert torch.allclose(found.mae, by_hand(off.abs()).mean(dim=2))
    norms = [by_hand(field.square()).sum(dim=2).sqrt() for field in (off, reference)]
    assert torch.allclose(found.relative, norms[0] / norms[1])
    cells = grid.fluid_values(reference).transpose(0, 2).flatten(1)
    spread = cells.double().std(dim=1, correction=0)
    assert torch.allclose(found.nrmse, by_hand(off.double().square()).mean(dim=1).sqrt() / spread)
    assert not found.diverged.any()
    predicted[1, 3, 0, 0, 0] = torch.nan
    assert rollout_error(predicted, reference, grid=grid).diverged.tolist() == [False, True]


def test_a_correlation_is_that_of_the_fluid_exact():
    """With whole weights: as if each cell were there so many times."""
    plain = Grid((8,), (1.0,), 0.1, ("u", "T"))
    masked = Grid((2, 3), (1.0, 1.0), 0.1, ("u", "T"), mask=[[1, 1, 0], [1, 1, 0]], weights=2)
    several = Grid((4,), (1.0,), 0.1, ("u", "T"), weights=[1, 3, 1, 3])
    predicted, reference = drawn(2, 5, 2, 4), drawn(2, 5, 2, 4, 1)[..., 0]
    alone = rollout_error(predicted, reference)
    on_land = [torch.full((2, 5, 2, 2, 3), torch.nan) for _ in range(2)]
    for field, values in zip(on_land, (predicted, reference), strict=True):
        field[..., :2] = values.unflatten(-1, (2, 2))
    found = rollout_error(*on_land, grid=masked)
    assert torch.allclose(found.correlation, alone.correlation)
    assert torch.allclose(found.nrmse, alone.nrmse)
    repeated = [v[..., [0, 1, 1, 1, 2, 3, 3, 3]] for v in (predicted, reference)]
    many = rollout_error(*repeated, grid=plain)
    weighted = rollout_error(predicted, reference, grid=several)
    assert torch.allclose(weighted.mae, many.mae)
    assert torch.allclose(weighted.relative, many.relative)
    # A deviation is of cells, whatever they weigh: it divides channels, not cells.
    ratio = weighted.nrmse / many.nrmse
    assert torch.allclose(ratio, ratio[:1].expand_as(ratio))


def test_a_coarse_cell_gets_the_mean_of_the_fluid_in_it_exact(grid):
    fine = drawn(1, 2, 2, 4)
    fine[..., 0, 2] = torch.nan
    coarse = downsample(fine, (1, 2), grid.cell_weights)
    west = (fine[..., 0, :2].sum(dim=-1) + 3 * fine[..., 1, :2].sum(dim=-1)) / 8
    east = (fine[..., 0, 3] + 3 * fine[..., 1, 2:].sum(dim=-1)) / 7
    assert torch.allclose(coarse[..., 0, :], torch.stack([west, east], dim=-1))
    dry = downsample(fine, (2, 4), grid.cell_weights)
    assert dry[..., 0, 2].eq(0).all()
    with pytest.raises(InputError, match="expected divisors"):
        downsample(fine, (1, 3), grid.cell_weights)
