"""The denoiser of denoised smoothing."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor, nn


@final
class DnCNN(nn.Module):
    """A convolutional network that says what of an image is noise.

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
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
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
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(last.weight)

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch channel y x"]:
        """The image without what is taken for noise."""
        cleaned: Tensor = x - self.noise(x)
        return cleaned
