"""The networks of a defence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from zopde.nets import Decoder, DnCNN, Encoder


@dataclass(frozen=True)
class Plan:
    """How a defence is built.

    Args:
        channels: Of an image.
        side: Its height and width in pixels.
        depth: Convolutions of the denoiser; 0: no denoiser.
        width: Channels between them.
        latent: Entries of the encoder's output; 0: no autoencoder.
    """

    channels: int
    side: int
    depth: int
    width: int
    latent: int = 0

    def as_tree(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@final
class Front(nn.Module):
    """What is trained, up to the cut: the denoiser, and the encoder where there is one.

    Args:
        denoiser: Images to images.
        encoder: Images to latents; None ends at the image.
    """

    def __init__(self, denoiser: nn.Module, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.encoder = nn.Identity() if encoder is None else encoder

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Tensor:
        """What enters the black box."""
        cut: Tensor = self.encoder(self.denoiser(x))
        return cut


@final
class Defence(nn.Module):
    """Noisy images to images that a classifier can read: decode(encode(denoise(x))).

    Args:
        plan: The sizes.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        denoiser = DnCNN(plan.channels, plan.depth, plan.width) if plan.depth else nn.Identity()
        encoder = Encoder(plan.channels, plan.side, plan.latent) if plan.latent else None
        self.front = Front(denoiser, encoder)
        self.decoder = (
            Decoder(plan.channels, plan.side, plan.latent) if plan.latent else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch channel y x"]:
        """Pixels in the units of x."""
        image: Tensor = self.decoder(self.front(x))
        return image
