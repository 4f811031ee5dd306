import pytest
import torch

from zopde import InputError
from zopde.nets import Decoder, DnCNN, Encoder
from zopde.oracle.coordinates import Coordinates


def test_dncnn_has_the_papers_size_exact():
    network = DnCNN(3)
    slices = Coordinates(network).slices
    assert Coordinates(network).total == 558_400
    assert sum(len(parameter.shape) == 4 for parameter in slices) == 17
    assert sum(s.stop - s.start for s in slices if len(s.shape) == 4) == 556_416


def test_an_untrained_denoiser_is_the_identity_exact():
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(DnCNN(1, depth=4, width=8)(x), x)


@pytest.mark.parametrize(("channels", "side", "latent"), [(3, 32, 192), (1, 28, 64), (1, 8, 12)])
def test_the_decoder_undoes_the_encoders_shape(channels, side, latent):
    x = torch.rand(2, channels, side, side)
    z = Encoder(channels, side, latent)(x)
    assert z.shape == (2, latent, 1, 1)
    assert bool((z >= 0).all()) == (side == 32)
    back = Decoder(channels, side, latent)(z)
    assert back.shape == x.shape
    assert back.min() > 0
    assert back.max() < 1


def test_the_published_encoder_has_its_layers_exact():
    shapes = [tuple(p.shape) for p in Encoder(3, 32, 192).parameters() if p.dim() == 4]
    assert shapes == [(32, 3, 4, 4), (48, 32, 3, 3), (96, 48, 4, 4), (192, 96, 2, 2)]


def test_a_side_without_layers_raises():
    with pytest.raises(InputError, match="side of the images: got 9"):
        Encoder(1, 9, 4)
