import pytest
import torch

from zopde import InputError, cge


class Quadratic:
    """l(theta) = b . theta + theta' H theta / 2, as an oracle; it counts what it is asked."""

    def __init__(self, d=5):
        gen = torch.Generator().manual_seed(1)
        root = torch.randn(d, d, generator=gen, dtype=torch.float64)
        self.hessian = root @ root.T
        self.linear = torch.randn(d, generator=gen, dtype=torch.float64)
        self.theta = torch.randn(d, generator=gen, dtype=torch.float64)
        self.num_coordinates = d
        self.asked = 0

    def loss(self, theta):
        self.asked += 1
        return self.linear @ theta + 0.5 * theta @ self.hessian @ theta

    def base(self):
        return self.loss(self.theta)

    def coordinates(self, indices, mu):
        unit = torch.eye(self.num_coordinates, dtype=torch.float64)
        return torch.stack([self.loss(self.theta + mu * unit[i]) for i in indices])

    @property
    def gradient(self):
        return self.linear + self.hessian @ self.theta


@pytest.mark.parametrize("mu", [1e-1, 1e-2, 1e-3])
def test_forward_error_is_half_mu_hessian_exact(mu):
    oracle = Quadratic()
    error = cge(oracle, mu=mu).gradient - oracle.gradient
    torch.testing.assert_close(error, mu * oracle.hessian.diag() / 2, rtol=0, atol=1e-11 / mu)


def test_central_is_exact_on_a_quadratic():
    oracle = Quadratic()
    found = cge(oracle, mu=0.3, scheme="central").gradient
    torch.testing.assert_close(found, oracle.gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scheme", "queries"), [("forward", 4), ("central", 6)])
def test_queries_are_what_was_asked(scheme, queries):
    oracle = Quadratic()
    estimate = cge(oracle, torch.tensor([4, 0, 2]), 1e-3, scheme)
    assert estimate.queries == oracle.asked == queries
    assert estimate.gradient.count_nonzero() == 3
    assert (estimate.loss is not None) == (scheme == "forward")


def test_order_of_indices_does_not_matter():
    oracle = Quadratic()
    one = cge(oracle, torch.tensor([4, 0, 2]), 1e-3).gradient
    other = cge(oracle, torch.tensor([0, 2, 4]), 1e-3).gradient
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mu": 0.0}, "mu: got 0.0"),
        ({"mu": -1e-3}, "mu: got -0.001"),
        ({"scheme": "backward"}, "scheme: got 'backward'"),
        ({"indices": torch.tensor([0, 0])}, "repeated"),
        ({"indices": torch.tensor([5])}, r"values in \[0, 5\)"),
        ({"indices": torch.tensor([0.0])}, "vector of integers"),
    ],
)
def test_raises(arguments, words):
    with pytest.raises(InputError, match=words):
        cge(Quadratic(), **arguments)
