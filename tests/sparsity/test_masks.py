import pytest
import torch

from zopde import InputError
from zopde.sparsity import RandomMasks


def test_active_share_and_resampling():
    masks = RandomMasks(1000, 0.9, every=5, seed=0)
    assert masks.mask(0).sum() == masks.active == 100
    assert torch.equal(masks.mask(0), masks.mask(4))
    assert not torch.equal(masks.mask(4), masks.mask(5))
    assert not torch.equal(masks.mask(0), RandomMasks(1000, 0.9, 5, seed=1).mask(0))


def test_every_coordinate_has_the_same_chance_unbiased():
    masks = RandomMasks(50, 0.8, every=1, seed=0)
    hits = torch.stack([masks.mask(i) for i in range(2000)]).double().mean(dim=0)
    standard_error = (0.2 * 0.8 / 2000) ** 0.5
    assert (hits - 0.2).abs().max() < 4.5 * standard_error


def test_at_least_one_is_active():
    assert RandomMasks(10, 0.999, every=1, seed=0).active == 1


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 2])
def test_sparsity_raises(sparsity):
    with pytest.raises(InputError, match="sparsity"):
        RandomMasks(10, sparsity, every=1, seed=0)
