"""Ensemble Kalman inversion against the Kalman filter's closed form."""

import pytest
import torch

from zopde import InputError
from zopde.zo.kalman import eki_update, etki_update, misfit_variance, refilled


def drawn(index=0):
    return torch.Generator().manual_seed(index)


def normal(*shape, index=0):
    return torch.randn(*shape, generator=drawn(index), dtype=torch.float64)


def linear(members, weights=4, numbers=7):
    """An ensemble, a linear map, data and the variances of their noise."""
    return (
        normal(members, weights, index=1) @ normal(weights, weights, index=2),
        normal(numbers, weights, index=3),
        normal(numbers, index=4),
        0.1 + normal(numbers, index=5).square(),
    )


def kalman(mean, covariance, model, data, variance):
    gain = covariance @ model.T @ (model @ covariance @ model.T + variance.diag()).inverse()
    return mean + gain @ (data - model @ mean), covariance - gain @ model @ covariance


@pytest.mark.parametrize("members", [5, 12, 60])
def test_etki_is_the_kalman_filter_of_the_sample_covariance(members):
    ensemble, model, data, variance = linear(members)
    mean, covariance = kalman(ensemble.mean(dim=0), ensemble.T.cov(), model, data, variance)
    found = etki_update(ensemble, ensemble @ model.T, data, variance)
    torch.testing.assert_close(found.mean(dim=0), mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.T.cov(), covariance, rtol=0, atol=1e-8)


def test_eki_nears_the_kalman_filter_as_members_grow():
    errors = []
    for members in (40, 1280):
        ensemble, model, data, variance = linear(members)
        mean, covariance = kalman(ensemble.mean(dim=0), ensemble.T.cov(), model, data, variance)
        found = eki_update(ensemble, ensemble @ model.T, data, variance, drawn())
        off = found.mean(dim=0) - mean, found.T.cov() - covariance
        errors.append(max(float(x.norm()) for x in off))
    assert errors[1] < 0.4 * errors[0]


def test_both_stay_in_the_affine_span_of_the_ensemble():
    ensemble, data = normal(4, 9, index=1), normal(6, index=2)
    predictions = torch.tanh(ensemble @ normal(9, 6, index=3))
    for found in (
        etki_update(ensemble, predictions, data, 0.1),
        eki_update(ensemble, predictions, data, 0.1, drawn()),
        refilled(ensemble, 7, drawn()),
    ):
        around = ensemble[1:] - ensemble[0]
        outside = (found - ensemble[0]) - (found - ensemble[0]) @ torch.linalg.pinv(around) @ around
        assert float(outside.abs().max()) < 1e-12
        assert float((found - found[0]).abs().max()) > 1e-3


def test_a_localised_update_is_the_formula_entry_by_entry(monkeypatch):
    ensemble, model, data, variance = linear(9)
    predictions = ensemble @ model.T
    both = torch.cat([ensemble, predictions], dim=1).T
    correlation, covariance = both.corrcoef()[:4, 4:], both.cov()[:4, 4:]
    covariance, within = (
        covariance * correlation**2,
        both.cov()[4:, 4:] * both.corrcoef()[4:, 4:] ** 2,
    )
    draws = torch.randn(9, 7, generator=drawn(), dtype=torch.float64) * variance.sqrt()
    gain = covariance @ (within + variance.diag()).inverse()
    expected = ensemble + (data + draws - predictions) @ gain.T
    for at_once in (1, 15, 10**6):
        monkeypatch.setattr("zopde.zo.kalman._AT_ONCE", at_once)
        found = eki_update(ensemble, predictions, data, variance, drawn(), localised=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_localised_it_finds_what_is_outside_of_the_span():
    """Forty weights that are measured one by one, by twelve members."""
    ensemble, truth = normal(12, 40, index=1), 3 * normal(40, index=2)
    found = dict.fromkeys((False, True), ensemble)
    draw = drawn()
    for _ in range(15):
        found = {
            way: eki_update(members, members, truth, 0.1, draw, localised=way)
            for way, members in found.items()
        }
    left = {way: float((of.mean(dim=0) - truth).norm()) for way, of in found.items()}
    assert left[True] < 0.6 * left[False]


def test_members_and_data_that_do_not_vary_are_no_disaster():
    ensemble, model, data, variance = linear(9)
    ensemble[:, 1], model[2] = 0.5, 0
    found = eki_update(ensemble, ensemble @ model.T, data, variance, drawn(), localised=True)
    assert torch.equal(found[:, 1], ensemble[:, 1])
    assert bool(found.isfinite().all())


def test_too_many_data_are_not_localised():
    with pytest.raises(InputError, match=r"got 9,000 numbers .* expected 8,192 at most"):
        eki_update(normal(3, 2), normal(3, 9000), normal(9000), 0.1, drawn(), localised=True)


@pytest.mark.parametrize("update", ["eki", "etki"])
def test_failed_members_are_left_out(update):
    ensemble, model, data, variance = linear(9)
    predictions = ensemble @ model.T
    kept = torch.ones(9, dtype=torch.bool)
    kept[[2, 5]] = False

    def updated(members, answers):
        what = members, answers, data, variance
        return etki_update(*what) if update == "etki" else eki_update(*what, drawn())

    alone = updated(ensemble[kept], predictions[kept])
    predictions[2], predictions[5, 3] = torch.nan, torch.inf
    assert torch.equal(updated(ensemble, predictions), alone)
    assert misfit_variance(predictions, data) == misfit_variance(predictions[kept], data)


def test_a_refilled_ensemble_keeps_mean_and_covariance_of_the_others():
    ensemble = normal(5, 3, index=1)
    found = refilled(ensemble, 40_000, drawn())
    assert torch.equal(found[:5], ensemble)
    torch.testing.assert_close(found.mean(dim=0), ensemble.mean(dim=0), rtol=0, atol=0.03)
    torch.testing.assert_close(found.T.cov(), ensemble.T.cov(), rtol=0, atol=0.05)


def test_misfit_variance_is_the_step_of_the_controller():
    predictions, data = normal(6, 5, index=1), normal(5, index=2)
    halves = (predictions - data).square().sum(dim=1) / 2
    step = max(5 / (2 * halves.mean()), (5 / (2 * halves.var())).sqrt())
    assert misfit_variance(predictions, data) == pytest.approx(1 / float(step), rel=1e-12)
    assert misfit_variance(data.expand(3, 5), data) > 0


def test_too_few_members_and_wrong_variances_raise():
    ensemble, model, data, _ = linear(3)
    predictions = ensemble @ model.T
    for variance in (0.0, -1.0, float("nan"), torch.zeros(7)):
        with pytest.raises(InputError, match="variance"):
            etki_update(ensemble, predictions, data, variance)
    predictions[:2] = torch.nan
    with pytest.raises(InputError, match="1 of 3 members"):
        etki_update(ensemble, predictions, data, 0.1)
