"""A reference that was measured in part: every mean is over what is there, and nothing is NaN."""

from dataclasses import replace
from math import nan

import pytest
import torch

from zopde import Grid, InputError, UnrolledObjective
from zopde.hybrid import (
    LastLoss,
    MomentsLoss,
    RelativeLoss,
    SensorsLoss,
    SpectrumLoss,
    rollout_error,
)
from zopde.hybrid.losses import check_loss

SCALE = torch.tensor([1.5, 0.7], dtype=torch.float64)
MASK = torch.ones(8, 8, dtype=torch.bool)
MASK[2:4, 3:6] = False
AREAS = torch.linspace(0.5, 2.0, 64, dtype=torch.float64).view(8, 8)
GRIDS = {
    "plain": {},
    "land": {"mask": MASK.numpy()},
    "weights": {"weights": AREAS.numpy()},
    "both": {"mask": MASK.numpy(), "weights": (AREAS * MASK).numpy()},
}


def grid_of(kind):
    return Grid((8, 8), (8.0, 8.0), 0.1, ("a", "b"), **GRIDS[kind])


def shares_of(grid):
    """How much each cell counts."""
    ones = torch.ones(8, 8, dtype=torch.float64)
    return ones if grid.cell_weights is None else grid.cell_weights


@pytest.fixture
def pair(double):
    """(window, time, channel, y, x): a prediction, and a reference without 70 % of its numbers."""
    predicted, reference = torch.randn(2, 3, 4, 2, 8, 8)
    reference[torch.rand(reference.shape) < 0.7] = nan
    reference[1, 2] = nan  # a time without any
    return predicted, reference


class Still:
    """A solver whose step changes nothing."""

    def __init__(self, grid):
        self.grid = grid

    def step(self, state, forcing=None):
        return state


@pytest.mark.parametrize("kind", GRIDS)
def test_the_objective_is_the_mean_over_what_was_measured(kind, window, corrector):
    grid = replace(grid_of(kind), forcing_channels=("f", "g"))
    torch.manual_seed(2)
    targets = window.targets.masked_fill(torch.rand(window.targets.shape) < 0.7, nan)
    targets[0, 1:] = nan
    objective = UnrolledObjective(Still(grid), replace(window, targets=grid.filled(targets)), SCALE)
    loss = objective(corrector)[0]
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in corrector.parameters())
    state, states = window.stepped, []
    for k in range(4):
        state = state + corrector(state, window.forcing[:, k])
        states.append(state)
    weights = shares_of(grid).broadcast_to(targets.shape)
    square = ((torch.stack(states, 1) - targets) / SCALE.view(2, 1, 1)).square()
    there = ~targets.isnan() & (weights > 0)
    by_hand = [
        (square[w] * weights[w])[there[w]].sum() / weights[w][there[w]].sum() for w in range(3)
    ]
    torch.testing.assert_close(loss, torch.stack(by_hand).mean(), rtol=1e-10, atol=0)


def test_a_whole_reference_takes_the_plain_path_bit_for_bit(window, corrector, toy):
    plain = UnrolledObjective(toy, window, SCALE)(corrector)
    measured = replace(window, targets=window.targets.masked_fill(window.targets > 1e9, nan))
    assert torch.equal(UnrolledObjective(toy, measured, SCALE)(corrector), plain)
    off = [u - window.targets[:, k] for k, u in enumerate(_states(toy, window, corrector))]
    errors = [(e / SCALE.view(2, 1, 1)).square().flatten(1).mean() for e in off]
    torch.testing.assert_close(plain[0], sum(errors) / 4)


def _states(solver, window, network):
    state = window.stepped
    for k in range(4):
        forcing = window.forcing[:, k]
        state = solver.step(state, forcing) if k else state
        state = state + network(state, forcing)
        yield state


def test_a_window_without_a_measurement_is_refused(window, toy):
    targets = window.targets.clone()
    targets[1] = nan
    with pytest.raises(InputError, match="no measurement"):
        UnrolledObjective(toy, replace(window, targets=targets), SCALE)


def by_hand(kind, predicted, reference, weights):
    """The ready-made losses, number by number."""
    found = []
    for u, r in zip(predicted, reference, strict=True):
        there = ~r.isnan() & (weights > 0)
        square = ((u - r) / SCALE.view(2, 1, 1)).square() * weights
        of = (r / SCALE.view(2, 1, 1)).square() * weights
        times = [t for t in range(len(u)) if there[t].any()]
        if kind == "relative":
            each = [square[t][there[t]].sum() / of[t][there[t]].sum() for t in times]
            found.append(torch.stack(each).mean())
        else:
            shares = weights.broadcast_to(u.shape)[times[-1]][there[times[-1]]]
            found.append(square[times[-1]][there[times[-1]]].sum() / shares.sum())
    return torch.stack(found)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["relative", "last"])
def test_a_ready_made_loss_is_of_what_was_measured(kind, grid, pair):
    (predicted, reference), grid = pair, grid_of(grid)
    if kind == "last":
        reference[0, 3] = nan  # the last time of one window
    reference = grid.filled(reference)
    loss = {"relative": RelativeLoss, "last": LastLoss}[kind](SCALE)
    found = loss(predicted.requires_grad_(), reference, grid)
    (slope,) = torch.autograd.grad(found.sum(), predicted)
    assert bool(slope.isfinite().all())
    assert bool((slope[reference.isnan()] == 0).all())
    expected = by_hand(kind, predicted.detach(), reference, shares_of(grid))
    torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=0)


def test_a_sensor_counts_where_its_numbers_are_there(pair):
    predicted, reference = pair
    reference = torch.where(reference.isnan(), 0.3, reference)
    reference[0, 1, 0, 2, 2] = reference[1, :, :, 5, 5] = nan
    positions = [[2.5, 2.5], [5.5, 5.5], [3.0, 2.5]]  # two on centres; one between (2, 2), (3, 2)
    grid, loss = grid_of("plain"), SensorsLoss(positions, SCALE)
    found = loss(predicted, reference, grid)
    off = ((predicted - reference) / SCALE.view(2, 1, 1)).square()
    between = (predicted - reference)[..., 2:4, 2].mean(-1).div(SCALE).square()
    at = torch.stack([off[..., 2, 2], off[..., 5, 5], between], -1)
    torch.testing.assert_close(found, at.flatten(1).nanmean(dim=1))
    nothing = torch.full_like(reference, nan)
    assert loss(predicted, nothing, grid).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("loss", [MomentsLoss(), SpectrumLoss()])
def test_what_needs_a_whole_reference_says_so(loss, pair):
    with pytest.raises(InputError, match="measured in part"):
        loss(*pair, grid_of("plain"))


@pytest.mark.parametrize("kind", GRIDS)
def test_measures_are_over_what_was_measured(kind, pair):
    (predicted, reference), grid = pair, grid_of(kind)
    predicted = torch.where(reference.isnan(), predicted, reference + 0.3 * predicted)
    error = rollout_error(predicted, grid.filled(reference), grid=grid)
    weights = shares_of(grid).broadcast_to(reference.shape)
    there = ~reference.isnan() & (weights > 0)
    off = (predicted - reference).abs()
    assert error.seen.tolist() == [[True] * 4, [True, True, False, True], [True] * 4]
    for run in range(3):
        for t in range(4):
            known = there[run, t]
            if not known.any():
                assert error.mae[run, t].isnan()
                assert error.correlation[run, t].isnan()
                continue
            share, e, r = (x[run, t][known] for x in (weights, off, reference))
            mae, relative = (share * e).sum() / share.sum(), e.mul(share.sqrt()).norm()
            torch.testing.assert_close(error.mae[run, t], mae)
            relative = relative / (r * share.sqrt()).norm()
            torch.testing.assert_close(error.relative[run, t], relative)
    for c in range(2):
        known, of = there[:, :, c], reference[:, :, c]
        deviation = of[known].std(correction=0)
        square = (off[0, :, c].square() * weights[0, :, c])[known[0]].sum()
        nrmse = (square / weights[0, :, c][known[0]].sum()).sqrt() / deviation
        torch.testing.assert_close(error.nrmse[0, c], nrmse)
    assert not error.diverged.any()
    assert bool(error.mean_mae.isfinite().all())
    torch.testing.assert_close(error.mean_mae[1], error.mae[1, [0, 1, 3]].mean())
    assert error.steps_correlated(-1.0).tolist() == [4, 4, 4]


def test_the_correlation_is_of_the_cells_that_are_there(double):
    predicted, reference = torch.randn(2, 1, 1, 1, 8, 8)
    reference[0, 0, 0, 3:] = nan
    found = rollout_error(predicted, reference).correlation[0, 0]
    pairs = torch.stack([predicted[0, 0, 0, :3].flatten(), reference[0, 0, 0, :3].flatten()])
    torch.testing.assert_close(found, torch.corrcoef(pairs)[0, 1])


def test_a_prediction_that_is_not_finite_diverged_wherever_it_is(pair):
    predicted, reference = pair
    predicted[1][reference[1].isnan()] = nan  # seen by no measurement
    error = rollout_error(predicted, reference)
    assert error.diverged.tolist() == [False, True, False]
    assert error.mean_mae[1] == float("inf")


def careless(predicted, reference, domain):
    return (predicted - reference).square().flatten(1).nanmean(dim=1)


def careful(predicted, reference, domain):
    off = torch.where(reference.isnan(), 0.0, predicted - reference)
    return off.square().flatten(1).sum(dim=1)


def ignorant(predicted, reference, domain):
    return (predicted - reference).square().flatten(1).mean(dim=1)


def test_a_loss_of_ones_own_is_tried_with_a_reference_in_part(pair):
    sample, grid = pair[1], grid_of("plain")
    assert check_loss("loss", careful, sample, grid)
    with pytest.raises(InputError, match="finite numbers"):
        check_loss("loss", ignorant, sample, grid)
    with pytest.raises(InputError, match="got a gradient of NaN"):
        check_loss("loss", careless, sample, grid)
