"""Measures of rollouts whose values are known: nRMSE, correlation, and how long it lasts."""

import math

import pytest
import torch

from zopde import Grid, rollout_error
from zopde.studies.correct.evaluate import Evaluation, summary

STEPS, CELLS = 10, 64
X = 2 * math.pi * torch.arange(CELLS, dtype=torch.float64) / CELLS
GRID = Grid((CELLS,), (1.0,), 0.5, ("u", "p"), units={"time": "s"})


def standing(*amplitudes):
    """(1, time, channel, x): amplitude times sin(x), the same at every time."""
    waves = torch.stack([a * torch.sin(X) for a in amplitudes])
    return waves.expand(1, STEPS, -1, -1).clone()


def turned(reference, correlations):
    """The reference, of which only that much is left; the rest has become cos(x)."""
    cosine = torch.as_tensor(correlations, dtype=torch.float64)[:, None, None]
    sizes = reference.norm(dim=3, keepdim=True) / math.sqrt(CELLS / 2)
    return cosine * reference + (1 - cosine**2).sqrt() * sizes * torch.cos(X)


def test_nrmse_is_in_standard_deviations_of_each_channel_exact():
    """A channel 1000 times larger, wrong by the same share, has the same nRMSE."""
    reference = standing(1.0, 1000.0)
    offset = torch.tensor([0.5, 500.0])[:, None]
    error = rollout_error(reference + offset, reference)
    torch.testing.assert_close(error.nrmse, torch.full((1, 2), 0.5 / math.sqrt(0.5)).double())


def test_nrmse_is_over_time_and_each_run_by_itself_exact():
    reference = standing(1.0).repeat(2, 1, 1, 1)
    predicted = reference.clone()
    predicted[0, :5] += 0.3  # half of the time
    error = rollout_error(predicted, reference)
    torch.testing.assert_close(error.nrmse[:, 0], torch.tensor([0.3, 0.0]).double())


def test_a_channel_that_never_varies_has_no_nrmse_and_no_part_in_the_correlation():
    reference = standing(1.0, 0.1)
    reference[:, :, 1] = 0.1
    predicted = reference.clone()
    predicted[:, :, 1] += torch.cos(X)
    error = rollout_error(predicted.float(), reference.float())
    assert error.nrmse[0, 0] == 0
    assert error.nrmse[0, 1].isnan()
    torch.testing.assert_close(error.correlation, torch.ones(1, STEPS).double())
    found = summary([Evaluation(predicted, error)], GRID)["nrmse"]
    assert found == {"mean": 0.0, "channels": {"u": 0.0, "p": None}}


def test_correlation_of_a_known_decay_exact():
    """0.95^t is below 0.8 from t = 5 on; units, offsets and factors do not change it."""
    decay = 0.95 ** torch.arange(1.0, STEPS + 1)
    reference = standing(1.0, 1000.0)
    predicted = 3.0 * turned(reference, decay) + torch.tensor([7.0, -20.0])[:, None]
    error = rollout_error(predicted, reference)
    torch.testing.assert_close(error.correlation[0], decay.double())
    assert error.steps_correlated().tolist() == [5]
    assert error.steps_correlated(0.9).tolist() == [3]
    assert error.steps_correlated(0.1).tolist() == [STEPS]
    found = summary([Evaluation(predicted, error)], GRID)
    assert found["correlation_time"] == {"mean": 2.5, "std": 0.0}


def test_a_correlation_that_comes_back_is_lost_all_the_same_exact():
    reference = standing(1.0)
    predicted = turned(reference, [1.0, 1.0, 0.5] + [1.0] * 7)
    assert rollout_error(predicted, reference).steps_correlated().tolist() == [3]


def test_correlation_where_a_state_is_uniform_or_not_finite_exact():
    reference = standing(1.0, 1.0)
    reference[0, 2] = 0.1  # says nothing
    predicted = reference.clone()
    predicted[0, 4] = 0.3  # nothing in common
    predicted[0, 6, 0, 0] = float("nan")
    error = rollout_error(predicted, reference)
    assert error.correlation[0, 2].isnan()
    assert error.correlation[0, [4, 6]].tolist() == [0, 0]
    torch.testing.assert_close(error.correlation[0, 3], torch.tensor(1.0).double())
    assert error.steps_correlated().tolist() == [5]


@pytest.mark.parametrize("shape", [(8,), (4, 6), (4, 6, 5)])
def test_measures_in_any_dimension_exact(shape):
    """Against the definition, written out."""
    reference, noise = torch.randn(2, 3, 4, 2, *shape, dtype=torch.float64).unbind(0)
    predicted = reference + 0.5 * noise
    error = rollout_error(predicted, reference)
    for c in range(2):
        deviation = reference[:, :, c].std(correction=0)
        for run in range(3):
            expected = (0.5 * noise[run, :, c]).square().mean().sqrt() / deviation
            torch.testing.assert_close(error.nrmse[run, c], expected)
    deviations = reference.transpose(0, 2).flatten(1).std(dim=1, correction=0)[:, None]
    u, r = ((s[1, 2].flatten(1) / deviations) for s in (predicted, reference))
    u, r = ((s - s.mean(dim=1, keepdim=True)).flatten() for s in (u, r))
    torch.testing.assert_close(error.correlation[1, 2], torch.cosine_similarity(u, r, dim=0))


def test_diverged_runs_are_counted_and_no_number_hides_them():
    reference = standing(1.0, 1.0).repeat(5, 1, 1, 1)
    predicted = reference.clone()
    predicted[1, 3:] = float("nan")
    found = summary([Evaluation(predicted, rollout_error(predicted, reference))] * 2, GRID)
    assert (found["diverged"], found["diverged_share"]) == (2, 0.2)
    assert found["mae"]["mean"] is None
    assert found["nrmse"] == {"mean": None, "channels": {"u": None, "p": None}}
    assert found["correlation_time"]["mean"] == pytest.approx((4 * STEPS + 4) * 0.5 / 5)
