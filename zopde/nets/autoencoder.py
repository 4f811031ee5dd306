"""An encoder to few numbers, and the decoder back: where a latent cut is made."""

from __future__ import annotations

from itertools import pairwise
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from zopde.errors import InputError

_Level = tuple[int, int, int]  # kernel, stride, padding of a convolution

# Side of the image -> the levels that bring it down to one pixel, and a level's channels.
_LEVELS: dict[int, tuple[_Level, ...]] = {
    8: ((2, 2, 0), (2, 2, 0), (2, 2, 0)),
    28: ((4, 4, 0), (3, 2, 1), (4, 2, 1), (2, 2, 0)),
    32: ((4, 4, 0), (3, 3, 2), (4, 2, 1), (2, 2, 0)),
}
_WIDTHS = {8: (16, 32), 28: (32, 48, 96), 32: (32, 48, 96)}
SIDES, _PUBLISHED = tuple(_LEVELS), 32


@final
class Encoder(nn.Module):
    """Strided convolutions from an image to its latent z, ReLU after each.

    For 32 x 32 pixels and latent 192 these are the layers of ZO-AE-DS: 32, 48, 96 and 192
    channels, kernels 4, 3, 4, 2, strides 4, 3, 2, 2. (Zhang et al., ICLR 2022.) For smaller
    images the latent itself has no ReLU: of a few entries, none may die.

    Args:
        channels: Of an image.
        side: Its height and width in pixels: 8, 28 or 32.
        latent: d, entries of z.

    Raises:
        InputError: If there are no layers for that side.
    """

    def __init__(self, channels: int, side: int, latent: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (before, after), (kernel, stride, padding) in _plan(channels, side, latent):
            layers += [nn.Conv2d(before, after, kernel, stride, padding), nn.ReLU()]
        self.layers = nn.Sequential(*(layers if side == _PUBLISHED else layers[:-1]))
        _initialise(self)

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch latent 1 1"]:
        """The latent."""
        z: Tensor = self.layers(x)
        return z


@final
class Decoder(nn.Module):
    """An `Encoder`'s layers the other way round, transposed; a sigmoid keeps pixels in (0, 1).

    Args:
        channels: Of an image.
        side: Its height and width in pixels: 8, 28 or 32.
        latent: d, entries of z.

    Raises:
        InputError: If there are no layers for that side.
    """

    def __init__(self, channels: int, side: int, latent: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (after, before), (kernel, stride, padding) in reversed(_plan(channels, side, latent)):
            layers += [nn.ConvTranspose2d(before, after, kernel, stride, padding), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1], nn.Sigmoid())
        _initialise(self)

    def forward(self, z: Float[Tensor, "batch latent 1 1"]) -> Float[Tensor, "batch channel y x"]:
        """The image."""
        x: Tensor = self.layers(z)
        return x


def _plan(channels: int, side: int, latent: int) -> list[tuple[tuple[int, int], _Level]]:
    if side not in _LEVELS:
        raise InputError("side of the images", got=side, expected=f"one of {list(SIDES)}")
    sizes = (channels, *_WIDTHS[side], latent)
    return list(zip(pairwise(sizes), _LEVELS[side], strict=True))


def _initialise(module: nn.Module) -> None:
    """Normal weights that keep a signal's size through ReLUs (He et al. 2015), biases zero.

    torch's own start leaves the decoder at the mean image for hundreds of updates.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            inputs = layer.in_channels * layer.kernel_size[0] ** 2
        elif isinstance(layer, nn.ConvTranspose2d):  # each pixel is reached by (k / s)^2 of them
            inputs = layer.in_channels * layer.kernel_size[0] ** 2 / layer.stride[0] ** 2
        else:
            continue
        nn.init.normal_(layer.weight, std=(2 / inputs) ** 0.5)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
