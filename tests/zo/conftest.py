"""A black box whose gradient is known."""

import pytest
import torch


class Quadratic:
    """l(theta) = b . theta + theta' H theta / 2, as an oracle; it counts what it is asked."""

    def __init__(self, d=5, noise=0.0):
        gen = torch.Generator().manual_seed(1)
        root = torch.randn(d, d, generator=gen, dtype=torch.float64)
        self.hessian = root @ root.T
        self.linear = torch.randn(d, generator=gen, dtype=torch.float64)
        self.theta = torch.randn(d, generator=gen, dtype=torch.float64)
        self.num_coordinates = d
        self.noise, self.gen = noise, gen
        self.asked = 0

    def losses(self, moved):
        self.asked += len(moved)
        exact = moved @ self.linear + 0.5 * ((moved @ self.hessian) * moved).sum(dim=1)
        return exact + self.noise * torch.randn(len(exact), generator=self.gen, dtype=exact.dtype)

    def base(self):
        return self.losses(self.theta[None])[0]

    def coordinates(self, indices, mu):
        units = torch.eye(self.num_coordinates, dtype=torch.float64)[indices]
        steps = torch.as_tensor(mu, dtype=torch.float64).expand(len(indices))
        return self.losses(self.theta + steps[:, None] * units)

    def directions(self, directions, mu):
        return self.losses(self.theta + mu * directions)

    @property
    def gradient(self):
        return self.linear + self.hessian @ self.theta


@pytest.fixture
def quadratic():
    return Quadratic
