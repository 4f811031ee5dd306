"""Estimates of which some probes failed."""

import pytest
import torch

from zopde import cge, rge

D = 30


class Quadratic:
    """l = |theta|^2 / 2 + theta . (1, 2, ..., d) at 0; given probes fail, by coordinate or draw."""

    num_coordinates = D

    def __init__(self, lost=(), lost_behind=(), lost_base=False, share=0.0):
        self.slope = torch.arange(1.0, D + 1, dtype=torch.float64)
        self.lost = {1: list(lost), -1: list(lost_behind)}
        self.lost_base, self.share = lost_base, share
        self.draw = torch.Generator().manual_seed(1)

    def base(self):
        return torch.tensor(torch.nan if self.lost_base else 0.0, dtype=torch.float64)

    def coordinates(self, indices, mu):
        losses = 0.5 * mu**2 + mu * self.slope[indices]
        lost = torch.isin(indices, torch.tensor(self.lost[1 if mu > 0 else -1]))
        return torch.where(lost, torch.nan, losses)

    def directions(self, directions, mu):
        along = directions.double()
        losses = 0.5 * mu**2 * along.square().sum(dim=1) + mu * along @ self.slope
        lost = torch.rand(len(along), generator=self.draw) < self.share
        return torch.where(lost, torch.nan, losses)


def test_a_coordinate_whose_probe_failed_gets_no_entry_exact():
    found = cge(Quadratic(lost=[3, 7]), mu=1e-3, failed="drop")
    expected = Quadratic().slope + 0.5e-3
    expected[[3, 7]] = 0
    torch.testing.assert_close(found.gradient, expected)
    assert found.unknown.nonzero().flatten().tolist() == [3, 7]
    assert (found.failed, found.queries) == (2, D + 1)


def test_failures_are_kept_unless_dropped():
    found = cge(Quadratic(lost=[3]), mu=1e-3)
    assert found.gradient.isnan().nonzero().flatten().tolist() == [3]
    assert found.failed == 1
    assert found.unknown is None


def test_central_with_one_side_lost_becomes_one_sided_exact():
    oracle = Quadratic(lost=[3, 5], lost_behind=[4, 5])
    found = cge(oracle, torch.arange(3, 8), 1e-3, "central", failed="drop")
    slope = oracle.slope
    assert found.gradient[4] == pytest.approx(float(slope[4]) + 0.5e-3, rel=1e-9)  # forward
    assert found.gradient[3] == pytest.approx(float(slope[3]) - 0.5e-3, rel=1e-9)  # backward
    torch.testing.assert_close(found.gradient[6:8], slope[6:8])
    assert found.unknown.nonzero().flatten().tolist() == [5]
    assert (found.failed, found.queries) == (4, 2 * 5 + 1)


def test_without_a_base_nothing_is_known():
    found = cge(Quadratic(lost_base=True), mu=1e-3, failed="drop")
    assert found.unknown.all()
    assert not found.gradient.any()


@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_directions_that_failed_leave_the_mean_unbiased(scheme, gen):
    oracle, count = Quadratic(share=0.3), 4000
    found = rge(oracle, count, 1e-3, gen, scheme=scheme, failed="drop")
    off = (found.gradient - oracle.slope) / found.standard_error
    assert off.abs().max() < 4.5
    assert found.failed == pytest.approx(0.3 * count * (2 if scheme == "central" else 1), rel=0.1)
    assert found.queries == (count + 1 if scheme == "forward" else 2 * count + 1)
    whole = rge(Quadratic(), count, 1e-3, torch.Generator().manual_seed(0), scheme=scheme)
    assert (found.standard_error / whole.standard_error).mean() > 1.02, "fewer directions know less"


def test_without_any_direction_nothing_is_known(gen):
    found = rge(Quadratic(share=1.1), 5, 1e-3, gen, failed="drop")
    assert found.unknown.all()
    assert not found.gradient.any()
    assert rge(Quadratic(share=0.5), 9, 1e-3, gen).gradient.isnan().all()
