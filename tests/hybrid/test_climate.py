"""Errors of mean and variance in time, of states whose statistics are known."""

import math

import pytest
import torch

from zopde import Grid
from zopde.hybrid import climate_error

GRID = Grid((4,), (1.0,), 0.1, ("u", "v"))


def draws(runs, steps, seed, mean=0.0, deviation=1.0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(runs, steps, 2, 4, generator=generator, dtype=torch.float64)
    return mean + deviation * noise


def test_a_shift_and_a_factor_are_found_exact():
    reference = draws(3, 50, 0)
    u, v = reference.unbind(2)
    found = climate_error(torch.stack([u + 2.0, 3.0 * v], dim=2), reference, GRID)
    varied = reference.var(dim=1, correction=0).mean(dim=(0, 2))
    assert found.mean[0] == pytest.approx(2.0 / math.sqrt(varied[0]))
    assert found.variance[0] == pytest.approx(0.0, abs=1e-12)
    bias = 8.0 * reference[:, :, 1].var(dim=1, correction=0)  # (run, cell)
    square = bias.mean(dim=0).square() - bias.var(dim=0) / 3
    assert found.variance[1] == pytest.approx(float(square.mean().sqrt() / varied[1]))


def test_the_order_of_the_states_does_not_matter():
    reference = draws(2, 30, 0)
    found = climate_error(reference.flip(1), reference, GRID)
    assert torch.allclose(torch.cat([found.mean, found.variance]), torch.zeros(4).double())


def test_chance_is_taken_off():
    """Runs of equal statistics: their means differ by 0.14 deviations; here 0.03 is left."""
    pairs = [
        climate_error(draws(20, 100, 2 * i), draws(20, 100, 2 * i + 1), GRID) for i in range(20)
    ]
    found = torch.stack([torch.cat([e.mean, e.variance]) for e in pairs])
    assert found.square().mean().sqrt() < 0.03
    assert climate_error(draws(1, 100, 0), draws(1, 100, 1), GRID).mean.min() > 0.05


def test_a_bias_remains_beside_chance():
    found = climate_error(draws(20, 100, 0, mean=0.5, deviation=1.5), draws(20, 100, 1), GRID)
    assert found.mean.tolist() == pytest.approx([0.5, 0.5], abs=0.06)
    assert found.variance.tolist() == pytest.approx([1.25, 1.25], abs=0.15)


def test_land_does_not_count_and_cells_count_by_their_area():
    mask, weights = torch.tensor([True, True, True, False]), torch.tensor([3.0, 1.0, 1.0, 9.0])
    grid = Grid((4,), (1.0,), 0.1, ("u",), mask=mask, weights=weights)
    reference = torch.tensor([-1.0, 1.0]).double()[None, :, None, None].expand(1, 2, 1, 4)
    off = torch.tensor([1.0, 0.0, 0.0, torch.nan]).double()
    assert float(climate_error(reference + off, reference, grid).mean[0]) == pytest.approx(
        math.sqrt(3 / 5)
    )


def test_a_diverged_run_is_infinitely_wrong_and_a_constant_channel_has_no_error():
    reference = draws(2, 30, 0)
    wrong = reference.clone()
    wrong[1, 7, 1, 2] = torch.inf
    assert climate_error(wrong, reference, GRID).mean.isinf().all()
    reference[:, :, 1] = 3.0
    found = climate_error(reference + 1.0, reference, GRID)
    assert found.mean[0] > 0
    assert found.mean[1].isnan()


def test_states_that_were_measured_in_part_are_left_out_of_both_exact():
    predicted, reference = draws(3, 40, 1), draws(3, 40, 2, mean=0.5)
    kept = climate_error(predicted[:, ::2], reference[:, ::2], GRID)
    reference[:, 1::2, :, :1] = torch.nan
    found = climate_error(predicted, reference, GRID)
    assert torch.equal(found.mean, kept.mean)
    assert torch.equal(found.variance, kept.variance)
