import math
from functools import partial

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from zopde import InputError, WeightOracle
from zopde.oracle.coordinates import Coordinates
from zopde.sparsity import grasp_scores, magnitude_scores, random_scores, zo_grasp_scores
from zopde.sparsity.scores import flat_weights


def case(seed=0, *layers):
    """(network, objective): least squares on random data, in double precision."""
    torch.manual_seed(seed)
    network = nn.Sequential(*(layers or (nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)))).double()
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 6, generator=gen, dtype=torch.float64)
    y = torch.randn(20, 3, generator=gen, dtype=torch.float64)

    def objective(network, num_probes):
        error = network(x.repeat(num_probes, 1)) - y.repeat(num_probes, 1)
        return error.view(num_probes, -1).square().mean(dim=1)

    return network, objective


def of_theta(network, objective):
    """The same loss as a plain function of the flat weights."""
    slices = Coordinates(network).slices

    def loss(theta):
        state = {s.name: theta[s.start : s.stop].view(s.shape) for s in slices}
        return objective(lambda x: torch.func.functional_call(network, state, x), 1)[0]

    return loss


def exact(network, objective):
    loss, theta = of_theta(network, objective), flat_weights(network)
    gradient = torch.autograd.functional.jacobian(loss, theta)
    return -theta * (torch.autograd.functional.hessian(loss, theta) @ gradient)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_grasp_is_the_hessian_vector_product_exact():
    network, objective = case()
    scores = grasp_scores(network, objective)
    assert scores.queries == 1
    torch.testing.assert_close(scores.values, exact(network, objective), rtol=1e-10, atol=1e-14)
    assert all(p.grad is None for p in network.parameters())


def squared_norm(network, objective, theta):
    slope = torch.autograd.functional.jacobian(of_theta(network, objective), theta)
    return float(slope.square().sum())


def test_grasp_is_the_slope_of_the_gradient_norm_under_pruning_exact():
    """Towards theta without weight i, |g|^2 rises at the rate 2 S_i."""
    network, objective = case()
    scores, theta = grasp_scores(network, objective).values, flat_weights(network)
    for i in (0, 20, 45, 60):
        towards = torch.zeros_like(theta)
        towards[i] = -theta[i]
        ahead, behind = (
            squared_norm(network, objective, theta + h * towards) for h in (1e-5, -1e-5)
        )
        assert (ahead - behind) / 2e-5 == pytest.approx(2 * float(scores[i]), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_pruning_the_highest_scores_keeps_the_gradient_flowing(seed):
    """Which end goes first: GraSP (Wang et al. 2020) removes the highest scores."""
    network, objective = case(seed)
    theta, order = flat_weights(network), grasp_scores(network, objective).values.argsort()
    tenth = len(theta) // 10

    def flow_without(pruned):
        kept = theta.clone()
        kept[pruned] = 0
        return squared_norm(network, objective, kept)

    before = squared_norm(network, objective, theta)
    assert flow_without(order[-tenth:]) > before > flow_without(order[:tenth])


def test_zo_grasp_rank_correlation_rises_with_the_directions():
    found, many = [], partial(WeightOracle, chunk=1024)
    for q in (32, 128, 512, 2048):
        ranks = []
        for seed in range(6):
            network, objective = case(seed)
            scores = zo_grasp_scores(
                network, objective, q, 1e-4, generator=gen(seed), oracle_at=many
            )
            assert scores.queries == 2 * (q + 1)
            ranks.append(spearmanr(scores.values, exact(network, objective)).statistic)
        found.append(sum(ranks) / len(ranks))
    assert found == sorted(found)
    assert found[0] > 0.1
    assert found[-1] > 0.85


class Two(nn.Module):
    """Two tensors of very different size."""

    def __init__(self):
        super().__init__()
        self.large = nn.Parameter(torch.ones(40, 50, dtype=torch.float64))
        self.small = nn.Parameter(torch.ones(2, 5, dtype=torch.float64))

    def forward(self):
        return self.large, self.small


def round_bowl(network, num_probes):
    """0.5 |theta|^2: g = theta and H = 1, the same for every weight."""
    large, small = network()
    return 0.5 * (large.square().sum() + small.square().sum()).view(1)


def test_no_tensor_has_a_scale_of_its_own_unbiased():
    """Equal curvature in a tensor of 2,000 and one of 10 weights gives equal scores: -1."""
    network, objective = Two(), round_bowl
    torch.testing.assert_close(
        grasp_scores(network, objective).values, -torch.ones(2010, dtype=torch.float64)
    )
    values = torch.stack(
        [
            zo_grasp_scores(network, objective, 300, 1e-4, generator=gen(seed)).values
            for seed in range(8)
        ]
    )
    expected = -(1 + (1 + 2010) / 300)  # H g + (H g + tr(H) g) / q
    for part in (values[:, :2000], values[:, 2000:]):
        error = values.std() / part.numel() ** 0.5
        assert float(part.mean()) == pytest.approx(expected, abs=5 * float(error))


def test_same_generator_gives_the_same_scores_and_restores():
    network, objective = case(1, nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one, other = (zo_grasp_scores(network, objective, 5, generator=gen(3)) for _ in range(2))
    assert torch.equal(one.values, other.values)
    grasp_scores(network, objective)
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_unit_of_the_loss_does_not_change_the_order_exact():
    network, objective = case()
    one = zo_grasp_scores(network, objective, 40, generator=gen()).values
    other = zo_grasp_scores(network, lambda f, p: 64 * objective(f, p), 40, generator=gen()).values
    torch.testing.assert_close(other, 64**2 * one, rtol=1e-9, atol=0)


def test_flat_loss_scores_zero():
    network, objective = case()
    flat = lambda f, p: 0 * objective(f, p) + 1  # noqa: E731
    assert zo_grasp_scores(network, flat, 3, generator=gen()).values.count_nonzero() == 0


def test_linear_loss_has_no_curvature():
    network = nn.Linear(6, 3).double()
    x = torch.ones(1, 6, dtype=torch.float64)
    linear = lambda f, p: f(x).sum().view(1)  # noqa: E731
    assert grasp_scores(network, linear).values.count_nonzero() == 0


def test_random_and_magnitude():
    network, _ = case()
    assert torch.equal(random_scores(network, gen()).values, random_scores(network, gen()).values)
    assert math.isclose(float(random_scores(network, gen()).values.mean()), 0.5, abs_tol=0.2)
    assert torch.equal(magnitude_scores(network).values, -flat_weights(network).abs())
    assert magnitude_scores(network).queries == 0


def test_raises():
    network, objective = case()
    with pytest.raises(InputError, match="mu: got 0"):
        zo_grasp_scores(network, objective, 3, 0.0, generator=gen())
    with pytest.raises(InputError, match="num_directions: got 0"):
        zo_grasp_scores(network, objective, 0, generator=gen())
    with pytest.raises(InputError, match="without an autograd graph"):
        grasp_scores(network, lambda f, p: objective(f, p).detach())
