"""A network whose weights a few numbers move."""

import pytest
import torch
from torch import nn

from zopde import InputError
from zopde.nets import Projected


def network(gen):
    module = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=gen)
    return module


def test_it_starts_as_the_network_and_moves_each_matrix_by_its_rank(gen):
    inside, x = network(gen), torch.randn(2, 5, generator=gen)
    expected, before = inside(x), {n: p.clone() for n, p in inside.named_parameters()}
    projected = Projected(inside, 6, 2, gen)
    assert torch.allclose(projected(x), expected)
    assert {n: p.numel() for n, p in projected.named_parameters() if p.requires_grad} == {"z": 6}
    with torch.no_grad():
        projected.z.normal_(generator=gen)
    moved = projected.moved()
    ranks = {
        n: int(torch.linalg.matrix_rank(moved[n] - before[n])) for n in ("0.weight", "1.weight")
    }
    assert ranks == {"0.weight": 2, "1.weight": 2}
    assert all(torch.equal(before[n], p) for n, p in inside.named_parameters())


def test_its_gradient_is_that_of_differences(gen):
    """Also where z is zero, where only the scales have a slope."""
    torch.manual_seed(0)
    inside = network(gen).double()
    projected = Projected(inside, 3, 1, gen).double()
    x = torch.randn(4, 5, generator=gen).double()

    def loss(z):
        projected.z.data.copy_(z)
        return projected(x).square().sum()

    for z in torch.zeros(3).double(), torch.ones(3).double():
        projected.zero_grad()
        loss(z).backward()
        slopes = [(loss(z + e) - loss(z - e)) / 2e-4 for e in 1e-4 * torch.eye(3).double()]
        assert torch.allclose(projected.z.grad, torch.stack(slopes), rtol=1e-4)
        assert projected.z.grad.norm() > 0


def test_what_it_moves_is_a_function_of_the_generator():
    draws = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    one, same, other = (Projected(network(torch.Generator()), 4, 1, draw).matrix for draw in draws)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("dimension", "rank"), [(0, 1), (2, 0)])
def test_sizes_that_are_none_are_refused(gen, dimension, rank):
    with pytest.raises(InputError, match="expected a whole number >= 1"):
        Projected(network(gen), dimension, rank, gen)


def test_a_network_without_a_weight_to_train_is_refused(gen):
    with pytest.raises(InputError, match="no trainable weight"):
        Projected(network(gen).requires_grad_(False), 2, 1, gen)
