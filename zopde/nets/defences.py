"""The networks of a defence: a denoiser, encoder and decoder, and what stands for a classifier."""

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
_PUBLISHED = 32


@final
class DnCNN(nn.Module):
    """Removes noise from an image: a convolutional network estimates it, and it is subtracted.

        D(x) = x - n(x),   n = conv . relu . [BatchNorm . conv ... relu] . relu . conv

    All convolutions are 3 x 3; the first alone has a bias, and the last starts at zero, so that
    an untrained denoiser is the identity. With 3 channels, depth 17 and width 64 it has 558,400
    parameters. (Zhang et al. 2017, arXiv 1608.03981; as a defence Salman et al., NeurIPS 2020.)

    Args:
        channels: Of an image.
        depth: Convolutions, >= 2.
        width: Channels between them.

    Example:
        >>> from zopde.nets import DnCNN
        >>> sum(p.numel() for p in DnCNN(3).parameters())
        558400
    """

    def __init__(self, channels: int, depth: int = 17, width: int = 64) -> None:
        super().__init__()
        first = nn.Conv2d(channels, width, 3, padding=1)
        layers: list[nn.Module] = [first, nn.ReLU()]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width, eps=1e-4),
                nn.ReLU(),
            ]
        last = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        self.noise = nn.Sequential(*layers, last)
        for module in self.noise:
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight)
        assert first.bias is not None
        nn.init.zeros_(first.bias)
        nn.init.zeros_(last.weight)

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch channel y x"]:
        """The image without what is taken for noise."""
        cleaned: Tensor = x - self.noise(x)
        return cleaned


@final
class Encoder(nn.Module):
    """Compresses an image to a few numbers, its latent z.

    Strided convolutions do it, with a ReLU after each. For 32 x 32 pixels and latent 192 these
    are the layers of ZO-AE-DS: 32, 48, 96 and 192 channels, kernels 4, 3, 4, 2, strides 4, 3, 2,
    2. (Zhang et al., ICLR 2022.) For smaller images the latent itself has no ReLU: of a few
    entries, none may die.

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
    """Makes an image of a latent: the layers of an `Encoder` the other way round, transposed.

    A sigmoid keeps pixels in (0, 1). Arguments and errors are those of `Encoder`.
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


@final
class ScoreNet(nn.Module):
    """Gives scores of an image: a small classifier that is smooth, so that its slopes mean much.

        y = W h_L + b,   h_k = silu(conv3x3(h_(k-1))),   h_0 = x

    The first convolution keeps the image's size, each later one halves it, down to 2 x 2 pixels.

    Args:
        channels: Of an image.
        side: Its height and width in pixels.
        classes: How many scores it gives.
        width: Channels of every convolution.
    """

    def __init__(self, channels: int, side: int, classes: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU()]
        while side > 2:
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU()]
            side = (side + 1) // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side**2, classes))

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch classes"]:
        """Scores."""
        scores: Tensor = self.layers(x)
        return scores


def _plan(channels: int, side: int, latent: int) -> list[tuple[tuple[int, int], _Level]]:
    if side not in _LEVELS:
        raise InputError("side of the images", got=side, expected=f"one of {list(_LEVELS)}")
    sizes = (channels, *_WIDTHS[side], latent)
    return list(zip(pairwise(sizes), _LEVELS[side], strict=True))


def _initialise(module: nn.Module) -> None:
    """Normal weights that keep a signal's size through ReLUs (He et al. 2015), biases zero.

    torch's own start leaves the decoder at the mean image for hundreds of updates.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            inputs: float = layer.in_channels * layer.kernel_size[0] ** 2
            if isinstance(layer, nn.ConvTranspose2d):  # each pixel is reached by (k / s)^2 of them
                inputs /= layer.stride[0] ** 2
            nn.init.normal_(layer.weight, std=(2 / inputs) ** 0.5)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
