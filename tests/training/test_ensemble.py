"""Training by an ensemble of networks: the mean, failed members, the checkpoint."""

from functools import partial

import pytest
import torch
from torch import nn

from zopde import InputError
from zopde.training import EnsembleKalman, Skipping, fit, load_checkpoint, read_history

MEMBERS, ROUNDS = 12, 5


class Linear:
    """Residuals A w - y of a bias-free layer; it fails where the first weight exceeds `most`."""

    def __init__(self, iteration=0, most=torch.inf):
        draw = torch.Generator().manual_seed(iteration)
        self.x = torch.randn(20, 6, generator=draw)
        self.y = self.x @ torch.arange(6.0) / 6
        self.most = most

    def residuals(self, network, num_probes=1):
        off = network(self.x.repeat(num_probes, 1)).view(num_probes, -1) - self.y
        size = network(torch.eye(6).repeat(num_probes, 1)).view(num_probes, -1)[:, 0]
        return torch.where(size[:, None] > self.most, torch.nan, off)

    def __call__(self, network, num_probes=1):
        return self.residuals(network, num_probes).square().mean(dim=1)

    def still(self):
        return Linear()


def layer():
    torch.manual_seed(1)
    return nn.Linear(6, 1, bias=False)


def ensemble(method="etki", **changes):
    settings = {"members": MEMBERS, "spread": 2.0, "noise": 0.0, "inflation": 1.0, "seed": 0}
    return EnsembleKalman(method, **{**settings, **changes})


def trained(folder, source, iterations=ROUNDS, objective_at=Linear, skipping=False):
    network = layer()
    gradient = Skipping(source) if skipping else source
    cost = fit(network, objective_at, gradient, source, iterations, folder, every_seconds=0.0)
    return network, cost, load_checkpoint(folder / "checkpoint.pt")


@pytest.mark.parametrize(("method", "left"), [("eki", 0.25), ("etki", 0.02)])  # 12 members
def test_the_network_is_the_mean_and_nears_the_least_misfit(method, left, tmp_path):
    network, cost, kept = trained(tmp_path, ensemble(method))
    members = kept["optimizer"]["param_groups"][0]["ensemble"]
    assert members.shape == (MEMBERS, 6)
    assert members.dtype == torch.float64
    assert torch.equal(network.weight[0], members.mean(dim=0).float())
    rows = read_history(tmp_path / "history.csv")
    assert rows[0].loss == pytest.approx(float(Linear()(layer()).detach()), rel=1e-5)
    assert rows[-1].loss < left * rows[0].loss
    assert cost.queries == ROUNDS * (MEMBERS + 1)


@pytest.mark.parametrize("method", ["eki", "etki"])
def test_a_resumed_training_ends_the_same_exact(method, tmp_path):
    most = partial(Linear, most=1.0)  # failed members are drawn anew, too
    whole, _, kept = trained(tmp_path / "whole", ensemble(method, inflation=1.1), ROUNDS, most)
    trained(tmp_path / "parts", ensemble(method, inflation=1.1), 2, most)
    again, _, resumed = trained(tmp_path / "parts", ensemble(method, inflation=1.1), ROUNDS, most)
    assert torch.equal(whole.weight, again.weight)
    one, other = (k["optimizer"]["param_groups"][0]["ensemble"] for k in (kept, resumed))
    assert torch.equal(one, other)


def test_the_ensemble_starts_around_the_network_and_keeps_its_span(tmp_path):
    source, network = ensemble(members=4), layer()
    first = source.build(network).param_groups[0]["ensemble"]
    torch.testing.assert_close(first.mean(dim=0).float(), network.weight[0].detach())
    around = first[1:] - first[0]
    _, _, kept = trained(tmp_path, ensemble("eki", members=4))
    moved = kept["optimizer"]["param_groups"][0]["ensemble"] - first[0]
    assert float(moved.abs().max()) > 0.1
    assert float((moved - moved @ torch.linalg.pinv(around) @ around).abs().max()) < 1e-12


def test_inflation_widens_the_deviations_and_leaves_the_mean():
    found = []
    for inflation in (1.0, 1.5):
        source, network = ensemble(inflation=inflation), layer()
        source.build(network)
        source(network, Linear(), 0)
        found.append(source._moved)
    plain, wide = found
    torch.testing.assert_close(wide.mean(dim=0), plain.mean(dim=0))
    torch.testing.assert_close(wide.std(dim=0), 1.5 * plain.std(dim=0))


def test_small_noise_moves_farther_than_large():
    sizes = []
    for noise in (0.1, 100.0):
        source, network = ensemble(noise=noise), layer()
        source.build(network)
        source(network, Linear(), 0)
        sizes.append(float(network.weight.grad.norm()))
    assert sizes[0] > 10 * sizes[1] > 0


def test_members_that_all_fail_stop_the_training_or_skip_the_iteration(tmp_path):
    def failing(iteration):
        return Linear(iteration, most=-torch.inf if iteration == 2 else torch.inf)

    _, cost, _ = trained(tmp_path / "raise", ensemble(), ROUNDS, failing)
    assert (cost.iterations, cost.stopped) == (2, "gradient not finite at iteration 2")
    _, cost, _ = trained(tmp_path / "drop", ensemble(), ROUNDS, failing, skipping=True)
    assert (cost.iterations, cost.skipped, cost.stopped) == (ROUNDS, 1, "")


def test_an_objective_without_residuals_raises(tmp_path):
    source = ensemble()

    def objective_at(_):
        return lambda network, num_probes: torch.ones(num_probes)

    with pytest.raises(InputError, match="residuals"):
        fit(layer(), objective_at, source, source, 1, tmp_path)
