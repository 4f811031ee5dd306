import pytest
import torch

from zopde import ConvCorrector, Normalised, ResidualCorrector
from zopde.nets import build_corrector


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_sizes_golden():
    """1,026 is design's quick corrector; 261,154 and 260,354 are Um et al.'s networks."""
    assert count(ConvCorrector(4, 2)) == 1_026
    assert count(ResidualCorrector(4, 2)) == 261_154
    assert count(ResidualCorrector(3, 2)) == 260_354


@pytest.mark.parametrize("kind", ["conv", "residual"])
@pytest.mark.parametrize("padding", ["periodic", "zero"])
@pytest.mark.parametrize("channels", [(1, 1), (3, 2), (5, 3)])
def test_any_channels_start_at_no_correction(kind, padding, channels):
    network = build_corrector(kind, *channels, padding, {"width": 4})
    answer = network(torch.randn(2, channels[0], 8, 6))
    assert answer.shape == (2, channels[1], 8, 6)
    assert answer.abs().max() == 0


def test_periodic_padding_commutes_with_shifts(corrector):
    state, forcing = torch.randn(1, 2, 8, 8).double(), torch.randn(1, 2, 8, 8).double()
    shifted = corrector(state.roll((3, 2), (2, 3)), forcing.roll((3, 2), (2, 3)))
    torch.testing.assert_close(shifted, corrector(state, forcing).roll((3, 2), (2, 3)))


def test_normalisation_is_units_free(corrector):
    """In units a thousand times smaller the correction is the same physical one."""
    state, forcing = torch.randn(1, 2, 8, 8).double(), torch.randn(1, 2, 8, 8).double()
    milli = Normalised(corrector.body, 1e3 * corrector.state_scale, 1e3 * corrector.input_scale[2:])
    torch.testing.assert_close(milli(1e3 * state, 1e3 * forcing), 1e3 * corrector(state, forcing))


def test_normalisation_travels_with_the_weights(corrector):
    assert {"state_scale", "input_scale"} <= set(corrector.state_dict())


@pytest.mark.parametrize("sizes", [{"widht": 4}, {"width": 0}, {"width": 1.5}, {"kernel": 4}])
def test_bad_sizes_raise(sizes):
    with pytest.raises(ValueError, match=r"corrector\.sizes: got"):
        build_corrector("conv", 4, 2, "zero", sizes)
