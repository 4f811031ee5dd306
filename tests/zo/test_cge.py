import pytest
import torch

from zopde import InputError, cge
from zopde.oracle import relative_mu


@pytest.mark.parametrize("mu", [1e-1, 1e-2, 1e-3])
def test_forward_error_is_half_mu_hessian_exact(mu, quadratic):
    oracle = quadratic()
    error = cge(oracle, mu=mu).gradient - oracle.gradient
    torch.testing.assert_close(error, mu * oracle.hessian.diag() / 2, rtol=0, atol=1e-11 / mu)


def test_central_is_exact_on_a_quadratic(quadratic):
    oracle = quadratic()
    found = cge(oracle, mu=0.3, scheme="central").gradient
    torch.testing.assert_close(found, oracle.gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scheme", "queries"), [("forward", 4), ("central", 6)])
def test_queries_are_what_was_asked(scheme, queries, quadratic):
    oracle = quadratic()
    estimate = cge(oracle, torch.tensor([4, 0, 2]), 1e-3, scheme)
    assert estimate.queries == oracle.asked == queries
    assert estimate.gradient.count_nonzero() == 3
    assert (estimate.loss is not None) == (scheme == "forward")


def test_order_of_indices_does_not_matter(quadratic):
    oracle = quadratic()
    one = cge(oracle, torch.tensor([4, 0, 2]), 1e-3).gradient
    other = cge(oracle, torch.tensor([0, 2, 4]), 1e-3).gradient
    assert torch.equal(one, other)


@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_a_step_per_coordinate_exact(scheme, quadratic):
    oracle = quadratic()
    mu = torch.tensor([1e-1, 1e-3, 1e-2, 3e-1, 1e-4], dtype=torch.float64)
    indices = torch.tensor([4, 0, 3])
    error = (cge(oracle, indices, mu, scheme).gradient - oracle.gradient)[indices]
    bias = (mu * oracle.hessian.diag() / 2)[indices] if scheme == "forward" else torch.zeros(3)
    torch.testing.assert_close(error, bias.double(), rtol=0, atol=1e-10)


def test_relative_mu_is_a_share_of_each_tensor():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)).double()
    scale = [10.0, 0.0, 2.0, 1e-9]
    for parameter, size in zip(network.parameters(), scale, strict=True):
        torch.nn.init.constant_(parameter, size)
    whole = (12 * 100 + 4 * 4) ** 0.5 / 21**0.5
    sizes = torch.tensor([10.0, whole / 10, 2.0, whole / 10], dtype=torch.float64)
    expected = 1e-2 * sizes.repeat_interleave(torch.tensor([12, 4, 4, 1]))
    torch.testing.assert_close(relative_mu(network, 1e-2), expected)


def test_relative_mu_of_zeros_and_bad_factor_raises():
    layer = torch.nn.Linear(2, 1)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    assert relative_mu(layer, 0.5).tolist() == [0.5] * 3
    with pytest.raises(InputError, match="factor: got 0"):
        relative_mu(layer, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mu": 0.0}, "mu: got 0.0"),
        ({"mu": -1e-3}, "mu: got -0.001"),
        ({"mu": torch.ones(4)}, r"mu: got torch.float32 of shape \(4,\)"),
        ({"mu": torch.tensor([1.0, 1, 0, 1, 1])}, "mu: got 0.0 at coordinate 2"),
        ({"mu": torch.tensor([1.0, 1, 1, 1, float("nan")])}, "mu: got nan at coordinate 4"),
        ({"mu": torch.ones(5, dtype=torch.int64)}, "floating-point steps"),
        ({"scheme": "backward"}, "scheme: got 'backward'"),
        ({"indices": torch.tensor([0, 0])}, "repeated"),
        ({"indices": torch.tensor([5])}, r"values in \[0, 5\)"),
        ({"indices": torch.tensor([0.0])}, "vector of integers"),
    ],
)
def test_raises(arguments, words, quadratic):
    with pytest.raises(InputError, match=words):
        cge(quadratic(), **arguments)
