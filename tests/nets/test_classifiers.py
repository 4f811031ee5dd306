import pytest
import torch

from zopde import InputError
from zopde.nets import CifarResNet, SmallCNN
from zopde.oracle.coordinates import Coordinates


@pytest.mark.parametrize(
    ("depth", "weights"), [(1, 730), (2, 3700), (3, 6670), (4, 9640), (5, 12610)]
)
def test_small_cnns_have_the_papers_sizes_exact(depth, weights):
    network = SmallCNN(3, 10, depth)
    assert Coordinates(network).total == weights
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_resnet20_has_the_papers_size_exact():
    network = CifarResNet(3, 10)
    slices = Coordinates(network).slices
    assert Coordinates(network).total == 269_722
    assert sum(s.stop - s.start for s in slices if len(s.shape) > 1) == 268_336
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_deeper_resnets_have_as_many_layers_as_they_say():
    for depth in (20, 32, 44, 56):
        layers = [m for m in CifarResNet(1, 4, depth, 2).modules() if hasattr(m, "kernel_size")]
        assert len(layers) + 1 == depth


def test_a_shortcut_pads_as_many_channels_in_front_as_behind_exact():
    block = CifarResNet(1, 2, 8, width=4).stages[1][0]
    torch.nn.init.zeros_(block.norm2.weight)  # nothing but the shortcut is left
    x = torch.rand(1, 4, 6, 6)
    y = block(x)
    assert y.shape == (1, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


@pytest.mark.parametrize(("depth", "width"), [(21, 16), (2, 16), (20, 5)])
def test_sizes_that_are_none_raises(depth, width):
    with pytest.raises(InputError):
        CifarResNet(3, 10, depth, width)


@pytest.mark.parametrize("make", [SmallCNN, CifarResNet])
def test_group_norms_take_the_place_of_batch_norms_exact(make):
    sizes = {"width": 8} if make is CifarResNet else {"depth": 2, "width": 8}
    plain, grouped = make(3, 10, **sizes), make(3, 10, **sizes, groups=4)
    kinds = [type(module).__name__ for module in plain.modules()]
    swapped = [kind.replace("BatchNorm2d", "GroupNorm") for kind in kinds]
    assert [type(module).__name__ for module in grouped.modules()] == swapped
    assert Coordinates(grouped).total == Coordinates(plain).total
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(grouped(images)[:1], grouped(images[:1]))
    with pytest.raises(InputError, match=r"groups.*divisor of 8"):
        make(3, 10, **sizes, groups=3)
