"""The compared ways of training a defence, and what sets each apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gradient = Literal["none", "backprop", "rge", "cge", "weights"]


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        gradient: Where it comes from: nowhere; back-propagation through the classifier, which
            then is no black box; random directions or single entries of what enters the black
            box; single weights of the denoiser.
        autoencoder: Whether encoder and decoder stand behind the denoiser. The black box then
            begins at the latent.
        denoiser: Whether there is one at all.
    """

    gradient: Gradient
    autoencoder: bool = False
    denoiser: bool = True

    @property
    def trained(self) -> bool:
        """Whether the classifier has a part in the training."""
        return self.gradient != "none"

    @property
    def zeroth_order(self) -> bool:
        """Whether queries are all it needs of the classifier."""
        return self.gradient in {"rge", "cge", "weights"}


METHODS = {
    "none": Method("none", denoiser=False),
    "MSE": Method("none"),
    "AE-MSE": Method("none", autoencoder=True),
    "FO-DS": Method("backprop"),
    "FO-AE-DS": Method("backprop", autoencoder=True),
    "ZO-DS": Method("rge"),
    "ZO-AE-DS-RGE": Method("rge", autoencoder=True),
    "ZO-AE-DS-CGE": Method("cge", autoencoder=True),
    "DeepZero": Method("weights"),
}
